"""Every partition, found by walking its package, shares a set out exactly once."""

import pickle
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fl_sim.core.errors import FieldError
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import numpy_generator
from fl_sim.data.partition import Partition, partition_records

PARTITIONS: list[Any] = [
    cls() for cls in discover("fl_sim.data", Partition) if not cls.package or find_spec(cls.package)
]
every_partition = pytest.mark.parametrize("partition", PARTITIONS, ids=lambda p: type(p).__name__)
sized = pytest.mark.parametrize(
    "partition",
    [p for p in PARTITIONS if hasattr(p, "min_size")],
    ids=lambda p: type(p).__name__,
)


def labels_of(size: int, num_classes: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(numpy_generator(seed, "labels").integers(0, num_classes, size))


def split(partition: Partition, labels: torch.Tensor, num_clients: int, seed: int = 0) -> Any:
    return partition_records(partition, labels, num_clients, numpy_generator(seed, "partition"))


def gentle(partition: Any) -> Any:
    """Return a copy that small sets can satisfy."""
    return replace(partition, min_size=2) if hasattr(partition, "min_size") else partition


def sizes_or_field(
    partition: Partition, labels: torch.Tensor, num_clients: int, seed: int = 0
) -> tuple[list[int], str]:
    """Return the sizes of the shares, or the field that was refused."""
    try:
        return [len(own) for own in split(partition, labels, num_clients, seed)], ""
    except FieldError as error:
        return [], error.field


@every_partition
@given(
    num_clients=st.integers(1, 9),
    per_client=st.integers(20, 60),
    num_classes=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_every_sample_has_exactly_one_owner(
    partition: Any, num_clients: int, per_client: int, num_classes: int, seed: int
) -> None:
    labels = labels_of(num_clients * per_client, num_classes, seed)
    own = split(gentle(partition), labels, num_clients, seed)
    assert len(own) == num_clients
    assert torch.equal(torch.cat(own).sort().values, torch.arange(len(labels)))
    assert all(torch.equal(indices, indices.sort().values) for indices in own)


@sized
@given(num_clients=st.integers(1, 6), min_size=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_everybody_has_the_minimum(
    partition: Any, num_clients: int, min_size: int, seed: int
) -> None:
    labels = labels_of(num_clients * 60, 10, seed)
    own = split(replace(partition, min_size=min_size), labels, num_clients, seed)
    assert min(map(len, own)) >= min_size


@sized
def test_a_minimum_that_needs_every_sample_can_be_met_or_is_refused(partition: Any) -> None:
    labels = labels_of(40, 4, 0)
    exact = replace(partition, min_size=10)
    sizes, refused = sizes_or_field(exact, labels, 4)
    assert sizes == [10, 10, 10, 10] or refused == "partition.alpha"


@sized
def test_a_minimum_beyond_the_set_is_refused(partition: Any) -> None:
    with pytest.raises(FieldError, match=r"partition.min_size: at most 10 images .*got 11"):
        split(replace(partition, min_size=11), labels_of(40, 4, 0), 4)


@every_partition
@given(seed=st.integers(0, 10**6))
def test_the_same_generator_gives_the_same_split(partition: Any, seed: int) -> None:
    labels = labels_of(300, 10, seed)
    assert all(
        map(torch.equal, split(partition, labels, 5, seed), split(partition, labels, 5, seed))
    )


@every_partition
def test_another_generator_gives_another_split(partition: Any) -> None:
    labels = labels_of(300, 10, 0)
    one, other = split(partition, labels, 5, 0), split(partition, labels, 5, 1)
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True))


def global_numpy_state() -> bytes:
    return pickle.dumps(np.random.get_state())  # noqa: NPY002


@every_partition
def test_global_generators_are_neither_used_nor_moved(partition: Any) -> None:
    labels = labels_of(300, 10, 0)
    np.random.seed(1)  # noqa: NPY002
    before = global_numpy_state()
    first = split(partition, labels, 5)
    assert global_numpy_state() == before
    np.random.seed(2)  # noqa: NPY002
    assert all(map(torch.equal, split(partition, labels, 5), first))


@every_partition
@given(size=st.integers(1, 8), extra=st.integers(1, 4))
def test_more_clients_than_samples_are_refused(partition: Any, size: int, extra: int) -> None:
    with pytest.raises(FieldError, match=f"data.num_clients: .* {size}; got {size + extra}"):
        split(partition, labels_of(size, 3, 0), size + extra)


@every_partition
def test_one_client_has_everything(partition: Any) -> None:
    (own,) = split(partition, labels_of(50, 10, 0), 1)
    assert torch.equal(own, torch.arange(50))


@every_partition
@given(num_clients=st.integers(1, 6), size=st.integers(1, 30), seed=st.integers(0, 1000))
def test_a_small_set_is_shared_out_or_refused_with_the_field(
    partition: Any, num_clients: int, size: int, seed: int
) -> None:
    assume(num_clients <= size)
    labels = labels_of(size, 5, seed)
    sizes, refused = sizes_or_field(partition, labels, num_clients, seed)
    assert sum(sizes) == size or refused.startswith("partition.")
