"""Networks of many clients trained as one batch: the updates that each gets alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clients.fedprox import FedProxClient
from clients.label_flip import LabelFlipClient
from clients.sgd import SgdClient
from clients.worker_momentum import WorkerMomentumClient
from fl_sim import Adversary, Model
from fl_sim.contracts import Client, Update
from fl_sim.models import parameters
from fl_sim.models.tuning import FrozenBatchNorm, TrainedPart, build_network
from fl_sim.training.batched_clients import BatchBuffer, can_batch, train_batched
from fl_sim.training.batched_layers import is_stack_of_layers
from fl_sim.training.batched_networks import explain_unbatchable
from fl_sim.training.client_trainer import ClientTrainer
from fl_sim.training.tasks import ClientTask, RoundConfig
from tests.unit.training import trainers

SIDE, SIZES = 8, (1, 4, 7)  # with batches of 4: less than one, a whole one, and a last one of 3
SGD = SgdClient(batch_size=4, learning_rate=0.1, momentum=0.0, local_epochs=2)
ALL = FedProxClient(
    mu=0.5, sgd=replace(SGD, momentum=0.9, weight_decay=0.01, label_smoothing=0.1, local_epochs=1)
)
CLIENTS: dict[str, Client] = {
    "plain": SGD,
    "large batch": replace(SGD, batch_size=64),
    "everything": replace(ALL, sgd=replace(ALL.sgd, local_epochs=2)),
    "rough": replace(SGD, label_smoothing=-0.1),
    "steps": replace(SGD, local_epochs=1, local_steps=3),
    "worker momentum": WorkerMomentumClient(0.5, replace(SGD, local_epochs=1, local_steps=1)),
}
NETWORKS: dict[str, Callable[[], nn.Sequential]] = {
    "LeNet": lambda: build(Model("lenet", norm="off")),
    "group norm": lambda: build(Model("small_cnn", norm="group")),
    "frozen batch norm": lambda: freeze_statistics(build(Model("small_cnn", norm="batch"))),
    "ResNet": lambda: build(Model("resnet18", norm="group")),
    "norms of a ResNet": lambda: build(Model("resnet18", norm="group", tune="norm")),
    "ViT": lambda: build(Model("timm:vit_tiny_patch16_224", pixels=16)),
    "LoRA of a ViT": lambda: thin(Model("timm:vit_tiny_patch16_224", pixels=16, tune="lora")),
    "LoRA of a ResNet": lambda: thin(Model("resnet18", norm="group", tune="lora")),
}


def build(model: Model) -> nn.Sequential:
    network = build_network(model, (3, SIDE, SIDE), 5, seed=0)
    return nn.Sequential(*network.frozen, *network.trained)


def thin(model: Model) -> nn.Sequential:
    """Return a network with low-rank changes in its last block and a trained head."""
    network = build(replace(model, rank=2, blocks=1))
    for name, parameter in network.named_parameters():
        if name.endswith("up"):  # they start at zero, where their counterparts have no gradient
            nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(2))
    return network


def freeze_statistics(network: nn.Sequential) -> nn.Sequential:
    """Return the network with frozen statistics that are not those of a new layer."""
    for name, stage in list(network.named_children()):
        if isinstance(stage, nn.BatchNorm2d):
            nn.init.constant_(stage.running_mean, 0.1)
            nn.init.constant_(stage.running_var, 2.0)
            setattr(network, name, FrozenBatchNorm.from_batch_norm(stage))
    return network


def make_trainer(network: nn.Sequential, client: Client, **fields: Any) -> ClientTrainer:
    """Return a trainer of clients with random images."""
    rng = torch.Generator().manual_seed(1)
    shape = (sum(SIZES), 3, SIDE, SIDE)
    images = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    return trainers.make_trainer(network, client, images, SIZES, rng, **fields)


def train(trainer: ClientTrainer, together: bool) -> list[Update]:
    """Return the updates of all clients in two rounds, of which the second keeps their states."""
    start, states, updates = parameters.flatten(trainer.model), [{}, {}, {}], list[Update]()
    for number in (1, 2):
        tasks = tuple(ClientTask(i, state=state) for i, state in enumerate(states))
        config = RoundConfig(number, start, {}, batch_clients=together, needs_losses=True)
        result = trainer.train_chunk(config, tasks)
        assert not result.failures
        states = [update.memory for update in result.updates]
        updates += result.updates
        if not any(states):
            break
    parameters.load_flat(trainer.model, start)
    return updates


def train_both_ways(
    trainer: ClientTrainer, batched_steps: list[int], num_batched: int = len(SIZES)
) -> tuple[list[Update], list[Update]]:
    """Return the updates of a batch, and those of one client at a time."""
    together = train(trainer, True)
    assert max(batched_steps) == num_batched
    batched_steps.clear()
    in_turn = train(trainer, False)
    assert not batched_steps
    return together, in_turn


def check_equality(
    trainer: ClientTrainer, batched_steps: list[int], num_batched: int = len(SIZES)
) -> None:
    """Compare the updates of a batch with those of one client at a time."""
    together, in_turn = train_both_ways(trainer, batched_steps, num_batched)
    for one, other in zip(together, in_turn, strict=True):
        assert one.delta is not None
        assert other.delta is not None
        assert float(other.delta.norm()) > 0
        assert float((one.delta - other.delta).norm()) <= 1e-5 * float(other.delta.norm())
        for name, value in other.metrics.items():
            assert one.metrics[name] == pytest.approx(value, rel=1e-4)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "ResNet" else n for n in NETWORKS],
)
def test_a_batch_gives_the_updates_of_its_clients_one_by_one(
    name: str, batched_steps: list[int]
) -> None:
    trainer = make_trainer(NETWORKS[name](), ALL)
    assert trainer.can_batch_clients
    check_equality(trainer, batched_steps)


@pytest.mark.parametrize("name", CLIENTS)
def test_settings_of_training_are_those_of_one_client(name: str, batched_steps: list[int]) -> None:
    check_equality(make_trainer(NETWORKS["LeNet"](), CLIENTS[name]), batched_steps)


def test_attackers_that_change_labels_are_trained_beside_a_batch(batched_steps: list[int]) -> None:
    flip = Adversary(LabelFlipClient(honest=SGD), clients=(1,))
    trainer = make_trainer(NETWORKS["LeNet"](), SGD, adversary=flip)
    check_equality(trainer, batched_steps, num_batched=2)
    honest = train(make_trainer(NETWORKS["LeNet"](), SGD), True)
    assert not torch.equal(train(trainer, True)[1].delta, honest[1].delta)


def test_records_of_padding_have_no_influence() -> None:
    """A row that pads every batch holds values that would dominate each gradient."""
    trainer = make_trainer(NETWORKS["group norm"](), SGD)
    rows = torch.arange(1, sum(SIZES))
    owners = list(rows.split([1, 4, 6]))
    inputs = trainer.shards.inputs.float() / 255
    results = []
    for padding in (0.0, 100.0):
        inputs[0] = padding
        shards = replace(trainer.shards, inputs=inputs, owners=owners)
        start, sgd = parameters.flatten(trainer.model), SGD.sgd_config(1)
        assert sgd is not None
        trained = train_batched(trainer.model, shards, BatchBuffer(), start, sgd, 1, [0, 1, 2])
        results.append(trained.parameters)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "model",
    [
        Model("lenet", norm="group"),
        Model("lenet", norm="batch"),  # its statistics are frozen
        Model("timm:vit_tiny_patch16_224", pixels=16),
    ],
)
def test_a_batch_in_bfloat16_is_as_near_to_single_precision_as_its_clients_are(
    model: Model, batched_steps: list[int]
) -> None:
    network = build_network(model, (3, SIDE, SIDE), 5, seed=0).trained
    freeze_statistics(network)
    trainer = make_trainer(network, SGD)
    exact = torch.stack([update.delta for update in train(trainer, False)])  # type: ignore[misc]
    network.precision = "bf16"
    errors = []
    for updates in train_both_ways(trainer, batched_steps):
        found = torch.stack([update.delta for update in updates])  # type: ignore[misc]
        assert found.dtype == torch.float32
        errors.append(float((found - exact).norm() / exact.norm()))
    assert 0 < errors[1] < 0.3
    assert 0 < errors[0] < 2 * errors[1]


def test_layers_in_bfloat16_are_vectorised_by_torch() -> None:
    network = TrainedPart(nn.Flatten(), nn.Linear(4, 3))
    assert is_stack_of_layers(network)
    network.precision = "bf16"
    assert not is_stack_of_layers(network)
    assert can_batch(network, torch.rand(2, 4))


class Centred(nn.Module):
    """A layer that takes the mean of the batch from each record."""

    def forward(self, records: Tensor) -> Tensor:
        """Return the records without their mean."""
        return records - records.mean(0, keepdim=True)


def test_networks_that_cannot_be_batched_are_named_with_the_reason() -> None:
    inputs = torch.zeros(3, 4)
    assert "statistics" in explain_unbatchable(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), inputs
    )
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 2)).eval()
    assert "random" in explain_unbatchable(network, inputs)
    assert not network.training
    mixing = nn.Sequential(nn.Linear(4, 4), Centred(), nn.Linear(4, 2))
    assert "others of the batch" in explain_unbatchable(mixing, inputs)
    assert explain_unbatchable(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), inputs) == ""
