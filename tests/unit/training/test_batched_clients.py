"""Clients trained as one batch: the same bits as alone, for any batch of clients."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from clients.canary import CanaryClient
from clients.fedprox import FedProxClient
from clients.sgd import SgdClient
from clients.worker_momentum import WorkerMomentumClient
from fl_sim import Adversary
from fl_sim.contracts import Client, Update
from fl_sim.core.perturbation import as_floats
from fl_sim.models import parameters
from fl_sim.models.architectures import Normalise
from fl_sim.models.low_rank import LowRank
from fl_sim.schedule import Schedule
from fl_sim.training.batched_clients import BatchBuffer
from fl_sim.training.batched_layers import is_stack_of_layers
from fl_sim.training.client_trainer import ClientTrainer
from fl_sim.training.tasks import ClientTask, RoundConfig
from tests.unit.training.trainers import make_trainer

SIZES = (1, 7, 8, 9, 20, 33)  # with batches of 8: less than one, whole ones, a last one of one
MODELS = {
    "head": lambda: nn.Sequential(nn.Linear(36, 5)),
    "mlp": lambda: nn.Sequential(
        Normalise((0.5,), (0.3,)), nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 5)
    ),
    "lora": lambda: nn.Sequential(
        LowRank(nn.Linear(36, 16), rank=3),
        nn.ReLU(),
        LowRank(nn.Linear(16, 8), rank=2, scaling=1.5),
        nn.Linear(8, 5),
    ),
}
SGD = SgdClient(batch_size=8, learning_rate=0.1, momentum=0.0, local_epochs=2)
CLIENTS = {
    "plain": SGD,
    "momentum": replace(SGD, momentum=0.9),
    "decay": replace(SGD, momentum=0.5, weight_decay=0.01),
    "smooth": replace(SGD, label_smoothing=0.2),
    "rough": replace(SGD, label_smoothing=-0.1, momentum=0.9),
    "near": FedProxClient(mu=0.5, sgd=replace(SGD, momentum=0.9)),
    "steps": replace(SGD, local_epochs=1, local_steps=4),
    "worker momentum": WorkerMomentumClient(0.5, replace(SGD, local_epochs=1, local_steps=1)),
}


def workshop(model: str, client: Client) -> ClientTrainer:
    rng = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (sum(SIZES), 1, 6, 6), generator=rng, dtype=torch.uint8)
    inputs = images if model == "mlp" else images.flatten(1).float() / 255
    return make_trainer(MODELS[model](), client, inputs, SIZES, rng)


def trained(shop: ClientTrainer, clients: list[int], cohort: bool) -> dict[int, Update]:
    """Return the updates of clients, from a start that is the same for all calls."""
    size = len(parameters.flatten(shop.model))
    start = 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(3))
    config = RoundConfig(1, start, {}, batch_clients=cohort)
    result = shop.train_chunk(config, tuple(ClientTask(client) for client in clients))
    assert not result.failures
    return {update.client: update for update in result.updates}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_batch_gives_what_its_clients_give_in_turn(
    model: str, client: str, batched_steps: list[int]
) -> None:
    shop, everybody = workshop(model, CLIENTS[client]), list(range(len(SIZES)))
    in_turn = trained(shop, everybody, cohort=False)
    assert not batched_steps
    together = trained(shop, everybody, cohort=True)
    assert max(batched_steps) == len(everybody)
    for number in everybody:
        one, other = together[number], in_turn[number]
        assert one.delta is not None
        assert other.delta is not None
        assert float((one.delta - other.delta).norm()) <= 1e-5 * float(other.delta.norm())
        assert one.metrics["train_loss"] == pytest.approx(other.metrics["train_loss"], rel=1e-4)
        assert one.metrics["train_accuracy"] == pytest.approx(other.metrics["train_accuracy"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("client", ["decay", "rough", "near", "steps", "worker momentum"])
def test_a_batch_of_one_gives_the_bits_of_a_batch_of_many(model: str, client: str) -> None:
    shop = workshop(model, CLIENTS[client])
    many = trained(shop, list(range(len(SIZES))), cohort=True)
    for number, own in many.items():
        (alone,) = trained(shop, [number], cohort=True).values()
        assert torch.equal(alone.delta, own.delta)
        assert alone.metrics == own.metrics


def test_who_cannot_be_trained_in_a_batch_leaves_the_bits_of_the_others() -> None:
    """A canary sends something else than it trained, which no cohort gives."""
    shop = workshop("mlp", CLIENTS["momentum"])
    honest = trained(shop, list(range(len(SIZES))), cohort=True)
    canaries = Adversary(CanaryClient(length=3.0), clients=(1, 4))
    watched = replace(shop.schedule.experiment, adversary=canaries)
    mixed = trained(
        replace(shop, shards=replace(shop.shards, schedule=Schedule(watched))),
        list(range(6)),
        cohort=True,
    )
    for number in range(6):
        if number in (1, 4):
            assert mixed[number].norm == pytest.approx(3.0, rel=1e-5)
        else:
            assert torch.equal(mixed[number].delta, honest[number].delta)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_company_in_any_number_leaves_the_bits(count: int) -> None:
    shop = workshop("mlp", CLIENTS["momentum"])
    everybody = trained(shop, list(range(len(SIZES))), cohort=True)
    some = trained(shop, list(range(count)), cohort=True)
    assert all(torch.equal(some[k].delta, everybody[k].delta) for k in range(count))


def test_the_loss_of_a_full_step_is_that_of_the_model_as_it_came() -> None:
    """The largest client takes more than one batch, the others exactly one."""
    shop, everybody = workshop("mlp", replace(SGD, batch_size=20, local_epochs=1)), range(6)
    start = parameters.flatten(shop.model)
    config = RoundConfig(1, start, {}, batch_clients=True, needs_losses=True)
    found = {
        u.client: u.loss
        for u in shop.train_chunk(config, tuple(map(ClientTask, everybody))).updates
    }
    parameters.load_flat(shop.model, start)
    for client in everybody:
        assert found[client] == pytest.approx(
            shop.compute_loss(shop.shards.shard(client)), rel=1e-5
        )
        (alone,) = shop.train_chunk(config, (ClientTask(client),)).updates
        assert alone.loss == found[client]
        parameters.load_flat(shop.model, start)


def test_a_batch_is_fetched_again_only_where_it_is_another() -> None:
    batch, rows = BatchBuffer(), torch.tensor([2, 0])
    sources = [torch.arange(6.0).view(3, 2), -torch.arange(6.0).view(3, 2)]
    for source in (*sources, sources[1]):
        assert torch.equal(batch.fetch(source, rows), source[rows])
    sources[1][2] = 7.0  # nobody does: it only shows who has looked
    assert batch.fetch(sources[1], rows)[0, 0] == -4.0
    assert torch.equal(batch.fetch(sources[1], torch.tensor([2])), torch.tensor([[7.0, 7.0]]))
    assert torch.equal(batch.fetch(sources[1], torch.tensor([1, 2, 0])), sources[1][[1, 2, 0]])


def test_a_batch_comes_as_floats_however_it_is_stored() -> None:
    batch, rows = BatchBuffer(), torch.tensor([2, 0, 1])
    pixels = torch.randint(0, 256, (3, 1, 4, 4), dtype=torch.uint8)
    for stored in (pixels, torch.rand(3, 5).half(), torch.rand(3, 5)):
        for _ in range(2):  # the second time it is there already
            assert torch.equal(batch.fetch(stored, rows), as_floats(stored)[rows])


def test_convolutions_and_frozen_layers_are_no_row_of_layers() -> None:
    assert all(is_stack_of_layers(make()) for make in MODELS.values())
    assert not is_stack_of_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 5)))
    assert not is_stack_of_layers(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    )
    frozen = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    frozen[0].requires_grad_(False)
    assert not is_stack_of_layers(frozen)


def test_layers_of_other_kinds_are_no_row_of_layers() -> None:
    class Scaled(nn.Linear):
        """A linear layer that may do anything else, too."""

    assert not is_stack_of_layers(nn.Sequential(Scaled(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert not is_stack_of_layers(nn.Sequential(LowRank(Scaled(4, 4), rank=1), nn.Linear(4, 2)))
    thawed = nn.Sequential(LowRank(nn.Linear(4, 4), rank=1), nn.Linear(4, 2))
    assert is_stack_of_layers(thawed)
    assert not is_stack_of_layers(thawed.requires_grad_(True))
