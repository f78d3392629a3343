"""Clients that are tested on the images of their own owners."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clients.sgd import SgdClient
from fl_sim import Data, Evaluation, Experiment, Model, find_clients
from fl_sim.config.validation import check
from fl_sim.contracts import RoundRecord
from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import numpy_generator
from fl_sim.data.partition import ByOwner
from fl_sim.federation.federation import prepare_federation
from fl_sim.metrics.accuracy import Accuracy, client_accuracies
from tests.unit.rounds.test_robustness import by_metric, train

OWNERS = ("ann", "bob", "eve")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark images; eve calls bright what the others call dark."""
    folder, rng = tmp_path_factory.mktemp("photographs"), numpy_generator(0, "photographs")
    for index in range(180):
        owner, bright = OWNERS[index % 3], index // 3 % 2
        label = "bright" if bright != (owner == "eve") else "dark"
        place = folder / label / owner
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 80, (8, 8)) + 160 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return folder


def make_experiment(experiment: Callable[..., Experiment], folder: Path) -> Experiment:
    data = Data("image_folder", num_clients=3, path=str(folder), folders="label/owner")
    client = SgdClient(learning_rate=0.01, local_epochs=2)
    return experiment(
        client=client,
        data=data,
        partition=ByOwner(own_test=True),
        model=Model(backbone="linear"),
        evaluation=Evaluation(alone=client),
        rounds=4,
    )


def test_clients_are_found_by_the_names_of_owners(photographs: Path) -> None:
    data = Data("image_folder", num_clients=3, path=str(photographs), folders="label/owner")
    assert find_clients(data, "eve", "ann") == (2, 0)
    with pytest.raises(FieldError, match="owner: one of ann, bob, eve; did you mean 'eve'"):
        find_clients(data, "eva")
    with pytest.raises(FieldError, match=r"data.num_clients: as many clients as owners, 3; got 2"):
        find_clients(replace(data, num_clients=2), "ann")
    with pytest.raises(FieldError, match=r"data.num_clients: of a dataset with owners; got 2"):
        find_clients(Data("digits", num_clients=2), "ann")


def test_a_client_with_labels_of_its_own_is_seen_to_lose(
    experiment: Callable[..., Experiment], photographs: Path
) -> None:
    asked = make_experiment(experiment, photographs)
    check(asked)
    federation, *_, rows = train(asked)
    assert federation.test_clients is not None
    owners = federation.dataset.test_owners
    assert owners is not None
    assert torch.equal(federation.test_clients, owners)  # as many clients as owners
    last = [row for row in by_metric(rows, "client_accuracy") if row.round == 4]
    ann, bob, eve = (row.value for row in last)
    assert min(ann, bob) > 0.9
    assert eve < 0.1
    gains = [row.value for row in by_metric(rows, "client_benefit")]
    assert gains[2] < -0.8
    shared = replace(asked, partition=ByOwner())
    *_, rows = train(replace(shared, evaluation=Evaluation()))
    values = [row.value for row in by_metric(rows, "client_accuracy") if row.round == 4]
    assert max(values) - min(values) < 0.2  # on the common test set nothing shows
    assert "own_test" not in shared.describe()["partition"]


def test_fewer_clients_hold_the_test_images_of_all_their_owners(
    experiment: Callable[..., Experiment], photographs: Path
) -> None:
    asked = make_experiment(experiment, photographs)
    asked = replace(asked, data=replace(asked.data, num_clients=2), evaluation=Evaluation())
    federation = prepare_federation(asked)
    train_owners, test_owners = federation.dataset.train_owners, federation.dataset.test_owners
    assert train_owners is not None
    assert test_owners is not None
    assert federation.test_clients is not None
    for owner in range(3):
        (client,) = set(federation.pool.clients[train_owners == owner].tolist())
        assert set(federation.test_clients[test_owners == owner].tolist()) == {client}


def test_accuracies_by_hand(observation: Callable[..., RoundRecord]) -> None:
    logits = torch.eye(10)[[0, 1, 0, 0]]
    record = observation(
        test_logits=logits,
        test_labels=torch.tensor([0, 1, 2, 3]),
        test_clients=torch.tensor([0, 1, 1, -1]),
        triggered=None,
    )
    expected = [1.0, 0.5, torch.nan, torch.nan]
    assert client_accuracies(record).tolist() == pytest.approx(expected, nan_ok=True)
    rows = [row for row in Accuracy().rows(record) if row.metric == "client_accuracy"]
    assert (rows[2].valid, rows[2].note) == (False, "no test image of its owners")
    swapped = torch.stack([logits, 1 - logits])
    shifted = replace(record, domains=torch.tensor([0, 1, 0, 1]), domain_logits=swapped)
    found = client_accuracies(shifted).tolist()
    assert found[0] == 1.0
    assert found[1] == 0.0  # argmax of the second domain: class 1 for the image of class 2
    broken = replace(record, test_logits=torch.full((4, 10), math.nan))
    assert bool(client_accuracies(broken).isnan().all())


def test_datasets_without_owners_of_test_images_are_refused(
    experiment: Callable[..., Experiment],
) -> None:
    with pytest.raises(FieldError, match=r"^partition"):
        check(experiment(partition=ByOwner(own_test=True)))
