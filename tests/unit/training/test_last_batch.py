"""A last batch of one image joins the previous one: batch normalisation cannot train on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clients.fedbn import FedBNClient
from clients.scaffold import ScaffoldClient
from clients.sgd import SgdClient, iterate_batches
from fl_sim import Data, Experiment, Model, run
from fl_sim.backends.base import InProcessBackend
from fl_sim.contracts import Client, Shard
from fl_sim.core.errors import FieldError
from fl_sim.data.partition import Iid
from fl_sim.federation.federation import load_federation
from fl_sim.metrics.extraction import knowledge_extraction
from fl_sim.models import parameters
from fl_sim.models.batches import count_samples, min_batch_size, split_batches
from fl_sim.models.surrogate import BatchCycle, Surrogate
from fl_sim.models.tuning import FrozenBatchNorm, build_network
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.robust_error_minimizing import RobustErrorMinimizing
from fl_sim.rounds.loop import create_state, plan_round
from fl_sim.runs.single_run import make_server
from fl_sim.training.client_trainer import make_trainer
from strategies.fednova import FedNova

Maker = Callable[..., Experiment]
NARROW = (1, 8, 8)  # a resnet18 ends in maps of a single place


def narrow() -> nn.Sequential:
    """Return a small network whose batch normalisation sees one value a channel and image."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 8), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4)
    )


@pytest.mark.parametrize("size", range(1, 30))
@pytest.mark.parametrize("batch_size", [2, 3, 8, 40])
def test_batches_are_those_of_torch_but_for_a_rest_of_one(size: int, batch_size: int) -> None:
    rows = torch.arange(size)
    usual, joined = split_batches(rows, batch_size), split_batches(rows, batch_size, min_size=2)
    assert [part.tolist() for part in usual] == [p.tolist() for p in rows.split(batch_size)]
    assert torch.equal(torch.cat(joined), rows)
    if size % batch_size != 1 or size == 1:
        assert [len(part) for part in joined] == [len(part) for part in usual]
    else:
        assert [len(part) for part in joined][-1] == batch_size + 1
    assert len(joined) == -(-count_samples(size, 2) // batch_size)
    going = BatchCycle(size, batch_size, torch.Generator().manual_seed(0), min_size=2)
    for _ in range(2):
        assert [len(going.next()) for _ in joined] == [len(part) for part in joined]


@pytest.mark.parametrize(
    ("model", "least"),
    [
        (Model("resnet18"), 2),
        (Model("resnet18", norm="group"), 1),
        (Model("small_cnn"), 1),  # its maps are larger than a place
        (Model("linear"), 1),
    ],
    ids=str,
)
def test_a_network_says_how_many_images_it_needs(model: Model, least: int) -> None:
    network = build_network(model, NARROW, 10, seed=0).trained.train()
    images = torch.zeros(3, *NARROW, dtype=torch.uint8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert min_batch_size(network, images) == least
    assert all(module.training for module in network.modules() if not _is_frozen(module))
    assert all(torch.equal(network.state_dict()[name], own) for name, own in before.items())
    if least == 2:
        with pytest.raises(ValueError, match="more than 1 value"):
            network(images[:1].float())
    else:
        network(images[:1].float())


def _is_frozen(module: nn.Module) -> bool:
    return isinstance(module, FrozenBatchNorm)


@pytest.mark.slow
def test_clients_of_33_and_34_images_train_a_resnet(tmp_path: Path, experiment: Maker) -> None:
    data = Data(dataset="digits", num_clients=2, num_samples=67, num_test=20, held_out=0.0)
    wanted = experiment(data=data, partition=Iid(), model=Model("resnet18"), rounds=1)
    results = run(wanted, out=tmp_path, controls=False)
    assert results.complete
    assert len(results.failures) == 0


CLIENTS: list[Client] = [
    SgdClient(batch_size=4),
    SgdClient(batch_size=4, local_epochs=2),
    FedBNClient(SgdClient(batch_size=4)),
    ScaffoldClient(SgdClient(batch_size=4, momentum=0.0)),
]


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_every_client_trains_on_a_rest_of_one(client: Client) -> None:
    images = torch.randint(0, 256, (9, *NARROW), dtype=torch.uint8)
    shard = Shard(
        *(0, images, torch.arange(9) % 4, torch.arange(9), 4),
        received={"control": torch.zeros(len(parameters.flatten(narrow())))},
    )
    metrics = client.train(narrow(), shard, torch.Generator().manual_seed(0))
    assert 0 < metrics["train_loss"] < 100


def test_scaffold_divides_by_the_steps_that_were_taken() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (9, *NARROW), dtype=torch.uint8)
    model = narrow()
    start = parameters.flatten(model)
    shard = Shard(
        *(0, images, torch.arange(9) % 4, torch.arange(9), 4),
        received={"control": torch.zeros(len(start))},
    )
    client = ScaffoldClient(SgdClient(batch_size=4, momentum=0.0, learning_rate=0.1))
    client.train(model, shard, torch.Generator().manual_seed(0))
    assert len(list(iterate_batches(shard, 4, torch.Generator().manual_seed(0), least=2))) == 2
    expected = (start - parameters.flatten(model)) / (0.1 * 2)
    torch.testing.assert_close(shard.sent["control"], expected)


@pytest.mark.parametrize(("backbone", "steps"), [("resnet18", 2.0), ("small_cnn", 3.0)])
def test_the_server_counts_the_steps_that_are_taken(
    experiment: Maker, backbone: str, steps: float
) -> None:
    """FedNova's weights rest on them."""
    data = Data(dataset="digits", num_clients=2, num_samples=66, num_test=20, held_out=0.0)
    wanted = experiment(
        data=data,
        partition=Iid(),
        model=Model(backbone),
        client=SgdClient(batch_size=16),
        strategy=FedNova(),
    )
    federation = load_federation(wanted.to_json())
    assert federation.shards.sizes == [33, 33]
    state = create_state(federation, make_server(wanted.strategy, federation.start, {}, 0))
    backend = InProcessBackend(make_trainer(federation))
    factors = plan_round(federation, state, backend, 1, [0, 1]).factors
    # A half of each normalised update, times the mean number of steps.
    assert steps == pytest.approx(-(-count_samples(33, backend.trainer.min_batch_size) // 16))
    assert sum(factors) == pytest.approx(1.0)


def test_one_image_alone_is_refused_before_any_work(experiment: Maker, tmp_path: Path) -> None:
    data = Data(dataset="digits", num_clients=19, num_samples=20, num_test=20, held_out=0.0)
    wanted = experiment(data=data, partition=Iid(), model=Model("resnet18"))
    with pytest.raises(FieldError, match=r"model: .*client \d+ has one image to train on"):
        run(wanted, out=tmp_path, controls=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("client", "path"),
    [
        (SgdClient(batch_size=1), "client"),
        (FedBNClient(SgdClient(batch_size=1)), "client.training"),
    ],
    ids=str,
)
def test_batches_of_one_are_refused_before_any_work(
    experiment: Maker, tmp_path: Path, client: Client, path: str
) -> None:
    wanted = experiment(client=client, model=Model("resnet18"))
    with pytest.raises(FieldError, match=rf"^{path}\.batch_size: at least 2"):
        run(wanted, out=tmp_path, controls=False)


def rest_of_one(protection: Any) -> torch.Tensor:
    """Return images that a protection with batches of 4 has made noise for."""
    images = torch.randint(0, 256, (5, *NARROW), dtype=torch.uint8)
    made: torch.Tensor = protection.protect(images, torch.arange(5) % 2, torch.arange(5), seed=0)
    return made


@pytest.mark.parametrize(
    "protection",
    [
        ErrorMinimizing(
            surrogate=Model("resnet18"),
            batch_size=4,
            max_passes=1,
            noise_steps=1,
            surrogate_steps=3,
        ),
        RobustErrorMinimizing(
            surrogate=Model("resnet18"),
            batch_size=4,
            surrogate_steps=3,
            noise_steps=1,
            transforms=1,
            adversary_steps=1,
        ),
    ],
    ids=lambda own: type(own).__name__,
)
@pytest.mark.slow
def test_surrogates_train_on_a_rest_of_one(protection: Any) -> None:
    assert rest_of_one(protection).shape == (5, *NARROW)


def test_a_surrogate_that_is_fitted_joins_a_rest_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    surrogate = Surrogate(Model("resnet18"), NARROW, 2, 0, 0.1)
    seen: list[int] = []
    monkeypatch.setattr(surrogate, "step", lambda images, labels, loss: seen.append(len(images)))
    images = torch.rand(9, *NARROW)
    surrogate.fit(images, torch.arange(9) % 2, 2, 4, 0, torch.Generator().manual_seed(0))
    assert seen == [4, 5, 4, 5]


def test_a_student_trains_on_a_rest_of_one() -> None:
    found, labels = torch.rand(33, *NARROW), torch.arange(33) % 4
    assert knowledge_extraction(narrow(), found, labels, lambda model: 0.5, 0, epochs=1) == 0.5
