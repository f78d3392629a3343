"""Local training against torch's own functions and loops that are written out."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from clients._shared.optimizer import SgdOptimizer
from clients.fedprox import FedProxClient
from clients.sgd import SgdClient, iterate_batches, smoothed_cross_entropy
from fl_sim.contracts import Shard
from fl_sim.core.seeding import generator
from fl_sim.models.parameters import flatten


def examples(seed: int, count: int = 24) -> Shard:
    rng = generator(seed, "examples")
    inputs = torch.randn(count, 5, generator=rng)
    labels = torch.randint(0, 3, (count,), generator=rng)
    return Shard(0, inputs, labels, torch.arange(count), 3)


def linear() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 3))
    with torch.no_grad():
        weights = torch.randn(18, generator=generator(0, "linear"))
        model[0].weight.copy_(weights[:15].view(3, 5))
        model[0].bias.copy_(weights[15:])
    return model


def after(client: object, shard: Shard, seed: int = 0) -> Tensor:
    model = linear()
    client.train(model, shard, generator(seed, "client"))  # type: ignore[attr-defined]
    return flatten(model)


def gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    loss = functional.cross_entropy(model(inputs), labels)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])


def by_hand(settings: SgdClient, shard: Shard, mu: float) -> Tensor:
    """Run the epochs with plain vectors: v = m v + g + decay w + mu (w - start), w -= rate v."""
    model, rng = linear(), generator(0, "client")
    start = flatten(model)
    velocity = torch.zeros_like(start)
    for _ in range(settings.local_epochs):
        for inputs, labels in iterate_batches(shard, settings.batch_size, rng):
            own = flatten(model)
            slope = gradient(model, inputs, labels) + settings.weight_decay * own
            velocity = settings.momentum * velocity + slope + mu * (own - start)
            nn.utils.vector_to_parameters(
                own - settings.learning_rate * velocity, model.parameters()
            )
    return flatten(model)


@pytest.mark.parametrize(
    "settings",
    [
        SgdClient(momentum=0.0),
        SgdClient(momentum=0.9, local_epochs=3, batch_size=7),
        SgdClient(weight_decay=0.1, local_epochs=2),
    ],
    ids=["plain", "momentum", "decay"],
)
def test_descent_is_the_loop_written_out(settings: SgdClient) -> None:
    shard = examples(0)
    torch.testing.assert_close(after(settings, shard), by_hand(settings, shard, 0.0))


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_the_proximal_term_pulls_by_mu_times_the_distance(mu: float) -> None:
    settings, shard = SgdClient(local_epochs=3, batch_size=8), examples(1)
    own = after(FedProxClient(mu=mu, sgd=settings), shard)
    torch.testing.assert_close(own, by_hand(settings, shard, mu))


def test_without_a_pull_the_proximal_client_is_plain_descent_bit_for_bit() -> None:
    settings, shard = SgdClient(local_epochs=2), examples(2)
    assert torch.equal(after(FedProxClient(mu=0.0, sgd=settings), shard), after(settings, shard))


def test_a_pull_that_flower_asks_for_is_the_proximal_clients_bit_for_bit() -> None:
    settings, shard = SgdClient(local_epochs=2), examples(2)
    asked = after(settings, replace(shard, proximal_mu=0.5))
    assert torch.equal(asked, after(FedProxClient(mu=0.5, sgd=settings), shard))
    assert not torch.equal(asked, after(settings, shard))


def test_a_stronger_pull_ends_nearer_to_the_start() -> None:
    settings = SgdClient(momentum=0.0, local_epochs=20, learning_rate=0.05)
    start = flatten(linear())
    distances = [
        float((after(FedProxClient(mu=mu, sgd=settings), examples(3)) - start).norm())
        for mu in (0.0, 0.1, 1.0, 10.0)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.2 * distances[0]


def test_metrics_are_means_over_the_last_epoch_without_the_penalty() -> None:
    still = SgdClient(learning_rate=1e-12, batch_size=7, local_epochs=2)
    model, shard = linear(), examples(4)
    logits = model(shard.inputs)
    expected = {
        "train_loss": functional.cross_entropy(logits, shard.labels).item(),
        "train_accuracy": float((logits.argmax(1) == shard.labels).double().mean()),
    }
    for client in (still, FedProxClient(mu=5.0, sgd=still)):
        metrics = client.train(linear(), shard, generator(0, "client"))
        assert metrics == pytest.approx(expected, rel=1e-5)


@given(size=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 1000))
def test_batches_cover_the_shard_once(size: int, batch_size: int, seed: int) -> None:
    shard = replace(examples(0, size), labels=torch.arange(size))
    seen = list(iterate_batches(shard, batch_size, generator(seed, "batches")))
    assert torch.cat([labels for _, labels in seen]).sort().values.tolist() == list(range(size))
    assert all(torch.equal(inputs, shard.inputs[labels]) for inputs, labels in seen)
    assert [len(labels) for _, labels in seen[:-1]] == [batch_size] * (len(seen) - 1)


def test_stored_images_reach_the_network_as_pixels_of_0_to_1() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    shard = Shard(0, images, torch.tensor([0]), torch.tensor([0]), 1)
    ((inputs, _),) = iterate_batches(shard, 4, generator(0, "pixels"))
    torch.testing.assert_close(inputs.view(-1), torch.tensor([0.0, 0.2, 1.0]))


def logits_and_labels(seed: int) -> tuple[Tensor, Tensor]:
    rng = generator(seed, "smoothing")
    return 3 * torch.randn(6, 10, generator=rng), torch.randint(0, 10, (6,), generator=rng)


@given(seed=st.integers(0, 10**6), smoothing=st.sampled_from([0.0, 0.05, 0.1, 0.5, 0.9]))
def test_smoothing_is_torchs(seed: int, smoothing: float) -> None:
    logits, labels = logits_and_labels(seed)
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, smoothing), expected)


@given(seed=st.integers(0, 10**6), smoothing=st.sampled_from([-0.9, -0.2, -0.05, 0.3]))
def test_smoothing_of_either_sign_is_cross_entropy_with_mixed_targets(
    seed: int, smoothing: float
) -> None:
    logits, labels = logits_and_labels(seed)
    targets = (1 - smoothing) * functional.one_hot(labels, 10) + smoothing / 10
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, smoothing), expected)


def test_a_rate_that_decays_is_that_of_its_round() -> None:
    decayed = SgdClient(learning_rate=0.1, learning_rate_decay=0.5)
    constant = SgdClient(learning_rate=0.025)
    shard = examples(0)
    assert torch.equal(after(decayed, replace(shard, round=3)), after(constant, shard))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_steps_are_those_of_torchs_optimiser_bit_by_bit(
    momentum: float, weight_decay: float
) -> None:
    shard = examples(3, count=40)
    ours, theirs = linear(), linear()
    optimizer = SgdOptimizer(ours, 0.1, momentum, weight_decay)
    optimiser = torch.optim.SGD(
        theirs.parameters(), 0.1, momentum=momentum, weight_decay=weight_decay, foreach=True
    )
    for inputs, labels in iterate_batches(shard, 8, generator(0, "client")):
        optimizer.zero_grad()
        functional.cross_entropy(ours(inputs), labels).backward()
        optimizer.step()
        optimiser.zero_grad()
        functional.cross_entropy(theirs(inputs), labels).backward()
        optimiser.step()
    assert torch.equal(flatten(ours), flatten(theirs))
