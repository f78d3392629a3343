"""Every client, found by walking its package, keeps the contract of a client."""

import json
import pickle
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from clients.label_flip import LabelFlipClient
from clients.nan_sender import NanSenderClient
from clients.noop import NoopClient
from clients.sgd import SgdClient
from clients.sign_flip import SignFlipClient
from fl_sim.contracts import Client, Dataset, Shard
from fl_sim.description import construct, describe
from fl_sim.experiment import Model
from fl_sim.models.parameters import buffers, flat
from fl_sim.models.tuning import build
from fl_sim.plugins import discover
from fl_sim.seeding import generator

CLIENTS = [cls() for cls in discover("clients", Client)]
IDLE = {NoopClient: "it measures what a round costs without any training"}
every_learner = pytest.mark.parametrize(
    "client", [c for c in CLIENTS if type(c) not in IDLE], ids=lambda c: type(c).__name__
)
every_client = pytest.mark.parametrize("client", CLIENTS, ids=lambda c: type(c).__name__)


class Trained(NamedTuple):
    """What a client made of a fresh network."""

    start: Tensor
    parameters: Tensor
    buffers: dict[str, Tensor]
    metrics: dict[str, float]

    def bits(self) -> bytes:
        """NaN equals NaN here."""
        return pickle.dumps([self.parameters.numpy().tobytes(), self.metrics])


@pytest.fixture(scope="module")
def shard(digits: Dataset) -> Shard:
    return Shard(2, digits.train_images[:50], digits.train_labels[:50], torch.arange(50), 10)


def fresh() -> nn.Sequential:
    return build(Model("small_cnn"), (1, 8, 8), 10, seed=0).trained


def trained(client: Client, shard: Shard, seed: int = 0) -> Trained:
    model, new = fresh(), replace(shard, memory={}, sent={})
    start = flat(model)
    metrics = client.train(model, new, generator(seed, "client"))
    return Trained(start, flat(model), buffers(model), metrics)


@every_client
def test_the_same_generator_gives_the_same_bits(client: Client, shard: Shard) -> None:
    once, again = trained(client, shard), trained(client, shard)
    assert once.bits() == again.bits()
    assert all(torch.equal(once.buffers[name], again.buffers[name]) for name in once.buffers)


@every_learner
def test_another_generator_gives_another_result(client: Client, shard: Shard) -> None:
    assert trained(client, shard, 0).bits() != trained(client, shard, 1).bits()


@every_client
def test_the_shard_is_left_as_it_was(client: Client, shard: Shard) -> None:
    before = [tensor.clone() for tensor in (shard.inputs, shard.labels, shard.sample_ids)]
    trained(client, shard)
    assert all(map(torch.equal, before, (shard.inputs, shard.labels, shard.sample_ids)))


@every_learner
def test_parameters_change_in_place(client: Client, shard: Shard) -> None:
    outcome = trained(client, shard)
    assert not torch.equal(outcome.parameters, outcome.start)


@every_client
def test_every_client_reports_the_same_metrics(client: Client, shard: Shard) -> None:
    metrics = trained(client, shard).metrics
    assert list(metrics) == ["train_loss", "train_accuracy"]
    assert all(type(value) is float for value in metrics.values())
    assert 0 <= metrics["train_accuracy"] <= 1
    assert metrics["train_loss"] > 0 or type(client) in IDLE


def test_the_idle_client_changes_nothing(shard: Shard) -> None:
    outcome = trained(NoopClient(), shard)
    assert torch.equal(outcome.parameters, outcome.start)


@every_client
def test_nothing_is_drawn_from_the_global_generator(client: Client, shard: Shard) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = trained(client, shard).bits()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    assert trained(client, shard).bits() == first


@every_learner
def test_cached_features_are_trained_on_like_images(client: Client) -> None:
    features = torch.randn(30, 6, generator=generator(0, "features"))
    shard = Shard(0, features, torch.arange(30) % 3, torch.arange(30), 3)
    head = nn.Sequential(nn.Linear(6, 3))
    start = flat(head)
    client.train(head, shard, generator(0, "head"))
    assert not torch.equal(flat(head), start)


@every_client
def test_frozen_parameters_stay_where_they_are(client: Client, shard: Shard) -> None:
    model = fresh()
    model[1].requires_grad_(False)
    before = model[1].weight.clone()
    client.train(model, replace(shard, memory={}, sent={}), generator(0, "client"))
    assert torch.equal(model[1].weight, before)


@every_client
def test_a_shard_of_one_image_is_enough(client: Client, shard: Shard) -> None:
    one = Shard(0, shard.inputs[:1], shard.labels[:1], shard.sample_ids[:1], 10)
    assert set(trained(client, one).metrics) == {"train_loss", "train_accuracy"}


@every_client
def test_what_a_client_keeps_survives_a_checkpoint(client: Client, shard: Shard) -> None:
    first = replace(shard, memory={}, sent={})
    client.train(fresh(), first, generator(0, "first"))
    assert all(type(value) is Tensor for value in (first.memory | first.sent).values())
    copied = {name: value.clone() for name, value in first.memory.items()}
    outcomes = []
    for memory in (first.memory, copied):
        model, second = fresh(), replace(shard, round=2, memory=memory, sent={})
        client.train(model, second, generator(0, "second"))
        outcomes.append(flat(model).numpy().tobytes())
    assert outcomes[0] == outcomes[1]


@every_client
def test_a_personal_model_is_there_once_a_client_has_trained(client: Client, shard: Shard) -> None:
    model, own = fresh(), replace(shard, memory={}, sent={})
    before = flat(model)
    assert not client.personal(model, own.memory)
    assert torch.equal(flat(model), before)
    client.train(fresh(), own, generator(0, "client"))
    if client.personal(model, own.memory):
        assert not torch.equal(flat(model), before)


@every_client
def test_a_client_pickles(client: Client) -> None:
    assert pickle.loads(pickle.dumps(client)) == client


@every_client
def test_a_client_is_described_and_constructed_again(client: Client) -> None:
    assert construct(json.loads(json.dumps(describe(client))), Client) == client


def wrapping() -> list[Any]:
    return [client for client in CLIENTS if hasattr(client, "honest")]


@pytest.mark.parametrize("client", wrapping(), ids=lambda c: type(c).__name__)
def test_an_attacker_wraps_any_honest_training(client: Any, shard: Shard) -> None:
    gentle = replace(client, honest=SgdClient(learning_rate=1e-6))
    assert trained(gentle, shard).bits() != trained(client, shard).bits()


def test_label_flipping_is_honest_training_on_mirrored_labels(shard: Shard) -> None:
    mirrored = replace(shard, labels=torch.tensor([9 - int(label) for label in shard.labels]))
    assert trained(LabelFlipClient(), shard).bits() == trained(SgdClient(), mirrored).bits()


@pytest.mark.parametrize("scale", [0.5, 1.0, 10.0])
def test_sign_flipping_mirrors_the_honest_update_at_the_start(shard: Shard, scale: float) -> None:
    honest = trained(SgdClient(), shard)
    forged = trained(SignFlipClient(scale=scale), shard)
    expected = honest.start - scale * (honest.parameters - honest.start)
    assert torch.equal(forged.parameters, expected)
    assert forged.metrics == honest.metrics


def test_the_nan_sender_sends_nothing_but_nan(shard: Shard) -> None:
    sent = trained(NanSenderClient(), shard)
    assert bool(sent.parameters.isnan().all())
    assert sent.metrics == trained(SgdClient(), shard).metrics
