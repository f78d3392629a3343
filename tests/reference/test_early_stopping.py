"""Early stopping: validation images, stopping rule and selected model."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from clients.early_stopping import KEPT, EarlyStoppingClient
from clients.sgd import SgdClient
from fl_sim.contracts import Shard
from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator, seed_torch

SGD = SgdClient(learning_rate=0.5, momentum=0.9, batch_size=8, local_epochs=12)


def shard(count: int = 60, noisy: int = 40, wrong: float = 0.0) -> Shard:
    """Points of two classes on a line, some of them with the wrong label."""
    labels = torch.arange(count) % 2
    inputs = 2.0 * labels[:, None] - 1 + torch.randn(count, 6, generator=generator(0, "points"))
    lies = torch.rand(count, generator=generator(0, "lies")) < wrong
    protected = torch.arange(count) < noisy
    return Shard(
        3, inputs, torch.where(lies, 1 - labels, labels), torch.arange(count), 2, 1, 0.0, protected
    )


def model() -> nn.Sequential:
    with seed_torch(0, "model"):
        return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))


@pytest.mark.parametrize(("clean", "expected"), [(0.0, 0), (0.5, 6), (1.0, 12)])
def test_images_aside_are_as_clean_as_asked_for(clean: float, expected: int) -> None:
    own = shard()
    client = EarlyStoppingClient(SGD, aside=0.2, clean=clean)
    away = client._select_aside(own)
    assert own.protected is not None
    assert len(away.unique()) == 12
    assert int((~own.protected[away]).sum()) == expected
    assert torch.equal(away, client._select_aside(replace(own, round=7)))


def test_where_too_few_are_clean_or_noisy_the_others_fill_up() -> None:
    few = EarlyStoppingClient(SGD, aside=0.5, clean=1.0)._select_aside(shard(noisy=50))
    none = EarlyStoppingClient(SGD, aside=0.5, clean=0.0)._select_aside(shard(noisy=0))
    assert len(few.unique()) == len(none.unique()) == 30


def test_the_epoch_with_the_lowest_loss_aside_is_kept() -> None:
    """By definition: train epoch by epoch, and take the best. A third of the labels are lies."""
    own, client = shard(wrong=0.3), EarlyStoppingClient(SGD, patience=3, aside=0.3)
    trained = model()
    client.train(trained, own, generator(1, "rng"))
    kept_epoch = int(own.memory[KEPT])
    away = client._select_aside(own)

    def loss(network: nn.Module) -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(network(own.inputs[away]), own.labels[away]))

    kept = torch.ones(60, dtype=torch.bool)
    kept[away] = False
    rest = Shard(3, own.inputs[kept], own.labels[kept], own.sample_ids[kept], 2)
    again, rng, losses, states = model(), generator(1, "rng"), [], []
    for _ in range(12):
        replace(SGD, local_epochs=1).train(again, rest, rng)
        losses.append(loss(again))
        states.append({name: value.clone() for name, value in again.state_dict().items()})
    best = losses.index(min(losses[: _stop(losses, 3)]))
    assert kept_epoch == best + 1 < 12
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, states[best][name])


def _stop(losses: list[float], patience: int) -> int:
    """Return the number of epochs that are run."""
    for epoch in range(1, len(losses) + 1):
        best = losses.index(min(losses[:epoch])) + 1
        if epoch - best >= patience:
            return epoch
    return len(losses)


def test_a_network_that_never_gets_a_finite_loss_keeps_its_first_epoch() -> None:
    own = shard()
    broken = replace(own, inputs=torch.full_like(own.inputs, torch.nan))
    EarlyStoppingClient(SGD).train(model(), broken, generator(0))
    assert int(own.memory[KEPT]) == 1


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(FieldError, match="patience: at least 1"):
        EarlyStoppingClient(patience=0)
    with pytest.raises(FieldError, match="clean: between 0 and 1"):
        EarlyStoppingClient(clean=1.5)


def test_a_single_image_is_trained_on_as_it_is() -> None:
    own, plain, stopped = shard(1, 0), model(), model()
    SGD.train(plain, own, generator(0))
    EarlyStoppingClient(SGD).train(stopped, own, generator(0))
    for a, b in zip(plain.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(a, b)
