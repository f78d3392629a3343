"""Partitions by Flower Datasets are those that its own `FederatedDataset` makes."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import numpy_generator
from fl_sim.data.flower_partition import FlowerPartition

pytestmark = [
    pytest.mark.slow,  # and needs fl-sim[hf], which .ci/run installs into a folder of its own
    pytest.mark.skipif(find_spec("flwr_datasets") is None, reason="needs flwr-datasets"),
]

NUM_CLIENTS = 5
LABELS = numpy_generator(0, "labels").permutation(np.arange(200) % 10)
OWNERS = np.arange(200) // 40
CALLS = {
    "IidPartitioner": {},
    "LinearPartitioner": {},
    "DirichletPartitioner": {"alpha": 0.5, "min_partition_size": 5},
    "PathologicalPartitioner": {
        "num_classes_per_partition": 6,
        "class_assignment_mode": "deterministic",
    },
    "ShardPartitioner": {"num_shards_per_partition": 2},
}


def call(name: str, arguments: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def split(partition: FlowerPartition, seed: int = 0) -> list[Any]:
    return partition.split(LABELS, NUM_CLIENTS, numpy_generator(seed, "partition"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a Parquet file of labels and positions."""
    path = tmp_path / "train.parquet"
    table = {"label": LABELS, "owner": OWNERS, "index": np.arange(len(LABELS))}
    datasets: Any = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(table).to_parquet(path)
    return path


@pytest.mark.parametrize("name", CALLS)
def test_clients_get_the_images_that_a_federated_dataset_gives_them(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flower: Any = pytest.importorskip("flwr_datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    cls = getattr(flower.partitioner, name)
    labelled = (
        {"partition_by": "label"} if name not in ("IidPartitioner", "LinearPartitioner") else {}
    )
    federated = flower.FederatedDataset(
        dataset="parquet",
        partitioners={"train": cls(num_partitions=NUM_CLIENTS, **labelled, **CALLS[name])},
        data_files={"train": str(file)},
        cache_dir=str(file.parent / "cache"),
    )
    ours = split(FlowerPartition(call(name, CALLS[name]), seed=42))
    for client, own in enumerate(ours):
        theirs = federated.load_partition(client, "train").with_format("numpy")["index"]
        assert np.array_equal(own, theirs)


def test_natural_ids_are_the_owners_of_the_dataset() -> None:
    partition = FlowerPartition("NaturalIdPartitioner(partition_by='owner')")
    rng = numpy_generator(0, "partition")
    parts = partition.split_with_owners(OWNERS, LABELS, NUM_CLIENTS, rng)
    assert sorted(set(OWNERS[part]) for part in parts) == [{owner} for owner in range(5)]


@pytest.mark.parametrize(
    ("partitioner", "message"),
    [
        ("ShardPartitioner(num_shards_per_partition=3)", "it leaves out 5 of 200 images"),
        ("PathologicalPartitioner(num_classes_per_partition=1)", "it leaves out"),
        ("DirichletPartitioner(alpha=-1.0)", "Alpha values should be strictly greater than zero"),
        ("DirichletPartitioner()", "missing 1 required positional argument: 'alpha'"),
        ("IidPartitioner(num_partitions=4)", "it makes 4 partitions for 5 clients"),
        ("NaturalIdPartitioner(partition_by='owner')", "owner"),
        ("GroupedNaturalIdPartitioner(partition_by='label', group_size=0)", "modulo by zero"),
        ("DirichlePartitioner", "did you mean 'DirichletPartitioner'?"),
    ],
)
def test_what_the_partitioner_refuses_is_one_line(partitioner: str, message: str) -> None:
    with pytest.raises(FieldError, match=r"partition\.partitioner: ") as refused:
        split(FlowerPartition(partitioner))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
