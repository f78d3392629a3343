"""Layouts: exact shares, nested over fractions, equal for members and non-members."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_sim.core.seeding import generator
from fl_sim.data.layout import Layout

UNITS = ("samples", "clients", "classes")
every_unit = pytest.mark.parametrize("unit", UNITS)
fractions = st.floats(0, 1)
seeds = st.integers(0, 10**6)
CLIENTS, CLASSES, SIZE = 5, 7, 240


def chosen(layout: Layout, seed: int = 0, pool_seed: int = 0) -> dict[str, Tensor]:
    """Return a pool of mixed owners and labels, and the mask of chosen records."""
    rng = generator(pool_seed, "pool")
    clients = torch.randint(0, CLIENTS, (SIZE,), generator=rng)
    labels = torch.randint(0, CLASSES, (SIZE,), generator=rng)
    members = torch.rand(SIZE, generator=rng) < 0.75
    marked = layout.choose_protected(clients, members, labels, CLIENTS, CLASSES, seed)
    return {"clients": clients, "labels": labels, "members": members, "chosen": marked}


def layout(unit: Any, fraction: float) -> Layout:
    return Layout(fraction=fraction, unit=unit)


@given(fraction=fractions, seed=seeds)
def test_each_client_protects_its_exact_share_of_samples(fraction: float, seed: int) -> None:
    pool = chosen(layout("samples", fraction), seed, seed)
    for client in range(CLIENTS):
        for is_member in (True, False):
            own = (pool["clients"] == client) & (pool["members"] == is_member)
            assert int(pool["chosen"][own].sum()) == round(fraction * int(own.sum()))


@pytest.mark.parametrize(
    ("unit", "column", "count"), [("clients", "clients", 5), ("classes", "labels", 7)]
)
@given(fraction=fractions, seed=seeds)
def test_whole_clients_or_classes_protect_in_an_exact_share(
    unit: Any, column: str, count: int, fraction: float, seed: int
) -> None:
    pool = chosen(layout(unit, fraction), seed)
    shares = [
        pool["chosen"][pool[column] == value].double().mean().item() for value in range(count)
    ]
    assert set(shares) <= {0.0, 1.0}
    assert sum(shares) == round(fraction * count)


@every_unit
@given(fraction=fractions, more=fractions, seed=seeds)
def test_a_larger_fraction_protects_the_same_and_more(
    unit: Any, fraction: float, more: float, seed: int
) -> None:
    fewer, larger = sorted((fraction, more))
    inner, outer = (chosen(layout(unit, share), seed)["chosen"] for share in (fewer, larger))
    assert bool((outer | ~inner).all())


@every_unit
def test_nothing_and_everything_can_be_protected(unit: Any) -> None:
    assert not chosen(layout(unit, 0.0))["chosen"].any()
    assert chosen(layout(unit, 1.0))["chosen"].all()


@every_unit
def test_the_choice_depends_on_the_seed_alone(unit: Any) -> None:
    half = layout(unit, 0.5)
    torch.manual_seed(1)
    first = chosen(half)["chosen"]
    torch.manual_seed(2)
    assert torch.equal(chosen(half)["chosen"], first)
    assert any(not torch.equal(chosen(half, seed)["chosen"], first) for seed in range(1, 6))


@every_unit
def test_neither_provenance_nor_withholding_changes_the_choice(unit: Any) -> None:
    half = layout(unit, 0.5)
    first = chosen(half)["chosen"]
    for other in (replace(half, provenance="client"), replace(half, withheld=True)):
        assert torch.equal(chosen(other)["chosen"], first)


@every_unit
def test_both_members_and_non_members_are_protected(unit: Any) -> None:
    pool = chosen(layout(unit, 0.5))
    for is_member in (True, False):
        marked = pool["chosen"][pool["members"] == is_member]
        assert 0 < int(marked.sum()) < len(marked)


def test_members_and_non_members_are_drawn_separately() -> None:
    """A client with as many members as non-members chooses different positions of both."""
    clients = torch.zeros(40, dtype=torch.int64)
    members = torch.arange(40) < 20
    marked = layout("samples", 0.5).choose_protected(clients, members, clients, 1, 1, 0)
    assert not torch.equal(marked[:20], marked[20:])


def test_clients_are_drawn_separately() -> None:
    clients = torch.arange(40) // 20
    members = torch.ones(40, dtype=torch.bool)
    marked = layout("samples", 0.5).choose_protected(clients, members, clients, 2, 2, 0)
    assert not torch.equal(marked[:20], marked[20:])


def test_a_client_may_have_no_samples() -> None:
    clients = torch.full((10,), 3)
    members = torch.ones(10, dtype=torch.bool)
    assert (
        int(layout("samples", 0.5).choose_protected(clients, members, clients, 6, 4, 0).sum()) == 5
    )
