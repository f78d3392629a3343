"""DP-SGD against its definition: one image at a time, and the effect of the noise."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clients.dp_sgd import (
    DpSgdClient,
    compute_clipping_factors,
    compute_per_image_gradients,
    estimate_epsilon,
)
from clients.label_flip import LabelFlipClient
from fl_sim import Experiment, Model, run
from fl_sim.config import validation
from fl_sim.contracts import Shard
from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.layout import Layout
from fl_sim.models import parameters
from fl_sim.protections.random_noise import RandomNoise

COUNT, CLASSES = 24, 4
needs_accounting = pytest.mark.skipif(
    importlib.util.find_spec("dp_accounting") is None, reason="an extra"
)


def network() -> nn.Sequential:
    with seed_torch(0, "network"):
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.GroupNorm(1, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(3 * 36, CLASSES),
        )


def shard_of(count: int = COUNT) -> Shard:
    rng = generator(0, "shard")
    images = torch.randint(0, 256, (count, 1, 6, 6), generator=rng, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (count,), generator=rng)
    return Shard(0, images, labels, torch.arange(count), CLASSES)


def slow_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return one flat gradient per image."""
    rows = []
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        functional.cross_entropy(model(image[None]), label[None]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    return torch.stack(rows)


def test_gradients_are_those_of_each_image_by_itself() -> None:
    model, shard = network(), shard_of()
    images = shard.inputs.float() / 255
    found, (losses, scores) = compute_per_image_gradients(model, images, shard.labels)
    flat = torch.cat([own.flatten(1) for own in found.values()], 1)
    torch.testing.assert_close(flat, slow_gradients(model, images, shard.labels))
    torch.testing.assert_close(scores, model(images))
    each = functional.cross_entropy(model(images), shard.labels, reduction="none")
    torch.testing.assert_close(losses, each)


@pytest.mark.parametrize("parts", [1, 5])
def test_without_noise_a_step_moves_along_the_mean_of_shortened_gradients(
    parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images are drawn as the client draws them: two of 8 are expected."""
    model, shard = network(), shard_of(8)
    size = sum(p.numel() for p in model.parameters())
    monkeypatch.setattr("clients.dp_sgd.MAX_VALUES", size * 8 // parts)
    client = DpSgdClient(
        clipping_norm=0.5, noise_multiplier=0.0, batch_size=2, learning_rate=0.3, local_epochs=1
    )
    expected, rng = parameters.flatten(model), generator(1, "client")
    slow, nothing = network(), torch.zeros(1, size)
    for _ in range(4):
        rows = torch.rand(8, generator=rng) < 2 / 8
        parameters.load_flat(slow, expected)
        images = shard.inputs[rows] / 255
        by_image = slow_gradients(slow, images, shard.labels[rows]) if rows.any() else nothing
        for parameter in slow.parameters():  # the noise, times zero
            torch.randn(parameter.shape, generator=rng)
        factor = (0.5 / by_image.norm(dim=1)).clamp(max=1)
        expected = expected - 0.3 / 2 * (factor[:, None] * by_image).sum(0)
    client.train(model, shard, generator(1, "client"))
    torch.testing.assert_close(parameters.flatten(model), expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_is_at_most_as_long_as_it_may_be() -> None:
    gradients = {"a": torch.tensor([[3.0], [0.0]]), "b": torch.tensor([[4.0], [0.5]])}
    assert compute_clipping_factors(gradients, 1.0).tolist() == pytest.approx([0.2, 1.0])


def test_the_noise_is_as_strong_as_it_says() -> None:
    """Half a million draws: their deviation is within 1 % of clipping norm times multiplier."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 15_000, bias=False))
    nn.init.zeros_(model[1].weight)
    client = DpSgdClient(clipping_norm=2.0, noise_multiplier=3.0, batch_size=8, learning_rate=1.0)
    images = torch.zeros(8, 1, 6, 6)
    shard = Shard(0, images, torch.zeros(8, dtype=torch.int64), torch.arange(8), 15_000)
    client.train(model, shard, generator(2, "client"))
    deviation = float(model[1].weight.detach().std())
    assert deviation == pytest.approx(2.0 * 3.0 / 8, rel=0.01)


def test_steps_are_counted_over_rounds() -> None:
    shard = shard_of()
    client = DpSgdClient(batch_size=8, local_epochs=2)
    for _ in range(2):
        client.train(network(), shard, generator(3, "client"))
    assert int(shard.memory["dp_sgd.steps"]) == 2 * client.num_steps(COUNT) == 12


@needs_accounting
def test_epsilon_is_the_known_one() -> None:
    """60,000 images, batches of 256, noise 1.1, 60 epochs: the figure of dp-accounting 0.5.1's
    RDP accountant; its tighter PLD accountant says 2.3817.
    """
    spent = estimate_epsilon(1.1, 256 / 60_000, 60 * 60_000 // 256, 1e-5)
    assert spent == pytest.approx(2.5965558698, rel=1e-6)


def test_a_client_that_withholds_its_reports_tells_no_loss_and_trains_the_same() -> None:
    trained = []
    for client in (DpSgdClient(batch_size=8), DpSgdClient(batch_size=8, reports="withheld")):
        model = network()
        told = client.train(model, shard_of(), generator(5, "client"))
        assert set(told) == {"train_loss", "train_accuracy"}
        assert all(math.isnan(v) for v in told.values()) == (client.reports == "withheld")
        trained.append(parameters.flatten(model))
    assert torch.equal(*trained)


def test_a_run_takes_clients_that_report_nothing(
    experiment: Callable[..., Any], tmp_path: Path
) -> None:
    """No failure, no number for the loss, and nothing for a server to tell clients apart by."""
    wanted = experiment(
        model=Model("small_cnn", norm="group"),
        client=DpSgdClient(reports="withheld"),
        protection=RandomNoise(),
        layout=Layout(0.5, unit="clients"),
        rounds=1,
    )
    results = run(wanted, out=tmp_path, controls=False)
    assert results.complete, results.cells.error.tolist()
    assert not len(results.failures)
    rows = results.rows
    told = rows[rows.metric.isin(["train_loss", "train_accuracy"])]
    assert len(told) == 2 * wanted.data.num_clients
    assert not told.valid.any()
    assert set(told.note) == {"no number: withheld, or nothing to train on"}
    detected = rows[(rows.metric == "detection_auc") & (rows.group == "train_loss")]
    assert not detected.valid.any()


def test_without_noise_nothing_is_private() -> None:
    assert estimate_epsilon(0.0, 0.5, 1, 1e-5) == math.inf


def test_batch_normalisation_is_refused_before_any_work(
    experiment: Callable[..., Experiment],
) -> None:
    for client in (DpSgdClient(), LabelFlipClient(honest=DpSgdClient())):
        wanted = experiment(model=Model("small_cnn", norm="batch"), client=client)
        with pytest.raises(FieldError, match="mixes the images of a batch"):
            validation.check(wanted)


def test_a_run_has_rows_of_epsilon(experiment: Callable[..., Any], tmp_path: Path) -> None:
    wanted = experiment(model=Model("small_cnn", norm="group"), client=DpSgdClient(), rounds=2)
    results = run(wanted, out=tmp_path, controls=False)
    assert results.complete, results.cells.error.tolist()
    spent = results.rows[results.rows.metric == "epsilon"]
    assert set(spent.client) == set(range(wanted.data.num_clients))
    assert spent.valid.all()
    rdp = results.rows[results.rows.metric == "epsilon_rdp"]
    assert (spent.value.to_numpy() < rdp.value.to_numpy()).all()
    (kept,) = results.cells["epsilon.images"]
    assert kept == spent[spent["round"] == 2].value.max()


def test_a_run_without_noise_ends_and_claims_no_bound(
    experiment: Callable[..., Any], tmp_path: Path
) -> None:
    client = DpSgdClient(noise_multiplier=0.0)
    wanted = experiment(model=Model("small_cnn", norm="group"), client=client, rounds=1)
    results = run(wanted, out=tmp_path, controls=False)
    assert results.complete, results.cells.error.tolist()
    spent = results.rows[results.rows.metric == "epsilon"]
    assert not spent.valid.any()
    assert set(spent.note) == {"without noise there is no bound"}
