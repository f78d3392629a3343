"""Partitions by class: the number of records per client and class."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_sim.core.seeding import numpy_generator
from fl_sim.data.partition import ClassesPerClient, Dirichlet, partition_records


def counts_of(
    num_classes: int, per_class: int, num_clients: int, classes_per_client: int, seed: int
) -> Tensor:
    """Return a [clients, classes] matrix of numbers of samples."""
    labels = torch.arange(num_classes).repeat(per_class)
    rng = numpy_generator(seed, "partition")
    parts = partition_records(ClassesPerClient(classes_per_client), labels, num_clients, rng)
    return torch.stack([labels[own].bincount(minlength=num_classes) for own in parts])


@given(
    num_classes=st.integers(1, 12),
    num_clients=st.integers(1, 30),
    classes_per_client=st.integers(1, 14),
    seed=st.integers(0, 10**6),
)
def test_clients_hold_as_many_classes_as_requested(
    num_classes: int, num_clients: int, classes_per_client: int, seed: int
) -> None:
    counts = counts_of(num_classes, 60, num_clients, classes_per_client, seed)
    held = (counts > 0).sum(1)
    assert int(counts.sum()) == 60 * num_classes
    if num_clients >= num_classes:
        assert held.tolist() == [min(classes_per_client, num_classes)] * num_clients
    else:  # as many more as it takes for every class to have an owner
        most = max(min(classes_per_client, num_classes), -(-num_classes // num_clients))
        assert int(held.min()) >= min(classes_per_client, num_classes)
        assert int(held.max()) <= most


@given(seed=st.integers(0, 10**6), classes_per_client=st.integers(1, 10))
def test_a_class_is_split_equally_over_its_holders(seed: int, classes_per_client: int) -> None:
    for column in counts_of(10, 97, 13, classes_per_client, seed).T:
        own = column[column > 0]
        assert int(own.max() - own.min()) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_with_one_class_per_client_client_i_holds_class_i(seed: int) -> None:
    assert torch.equal(counts_of(3, 40, 3, 1, seed), 40 * torch.eye(3, dtype=torch.int64))


def test_all_pairs_of_classes_occur() -> None:
    pairs = {
        tuple(row.nonzero().squeeze(1).tolist())
        for seed in range(60)
        for row in counts_of(4, 20, 4, 2, seed)
    }
    assert len(pairs) == 6
    assert all(len(pair) == 2 for pair in pairs)


def test_classes_need_not_be_numbered_without_gaps() -> None:
    labels = torch.tensor([7, 7, 3, 3, 9, 9])
    rng = np.random.default_rng(0)
    parts = partition_records(ClassesPerClient(1), labels, 3, rng)
    assert [labels[own].tolist() for own in parts] == [[3, 3], [7, 7], [9, 9]]


def overfull(capped: bool, seed: int) -> int:
    """Return the number of clients that got a further class after reaching an equal share."""
    labels = torch.arange(10).repeat(100)
    rng = numpy_generator(seed, "partition")
    parts = partition_records(Dirichlet(alpha=0.3, min_size=1, capped=capped), labels, 8, rng)
    counts = torch.stack([labels[own].bincount(minlength=10) for own in parts])
    before_last = [int(own[: own.nonzero().max()].sum()) for own in counts]
    return sum(held >= len(labels) / 8 for held in before_last)


@given(seed=st.integers(0, 10**6))
def test_under_a_cap_an_equal_share_ends_the_draw(seed: int) -> None:
    assert overfull(capped=True, seed=seed) == 0


def test_without_a_cap_an_equal_share_does_not_end_the_draw() -> None:
    assert sum(overfull(capped=False, seed=seed) for seed in range(5)) >= 5
