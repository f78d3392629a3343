"""Tests of generators that are named by labels."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.core.seeding import derive_seed, generator, numpy_generator, seed_torch

labels = st.lists(st.one_of(st.integers(0, 999), st.text("abc_ ,'", max_size=4)), max_size=4)


@given(seed=st.integers(0, 2**40), names=labels)
def test_a_seed_has_63_bits_and_depends_on_nothing_else(seed: int, names: list[str | int]) -> None:
    first = derive_seed(seed, *names)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert derive_seed(seed, *names) == first
    assert 0 <= first < 2**63


@given(one=st.tuples(st.integers(0, 50), labels), other=st.tuples(st.integers(0, 50), labels))
def test_other_labels_give_another_seed(
    one: tuple[int, list[str | int]], other: tuple[int, list[str | int]]
) -> None:
    same = derive_seed(one[0], *one[1]) == derive_seed(other[0], *other[1])
    assert same == (one == other)


@pytest.mark.parametrize(
    "names",
    [
        [("round", 1), ("round", 11), ("round", "1"), ("round1",), ("round", 1, 1), ()],
        [(1, 23), (12, 3), (123,), ("1, 23",), ("1", "23")],
        [("a", "b"), ("ab",), ("b", "a"), ("a', 'b",)],
    ],
)
def test_labels_that_look_alike_are_told_apart(names: list[tuple[str | int, ...]]) -> None:
    assert len({derive_seed(0, *own) for own in names}) == len(names)


def test_a_thousand_clients_have_a_thousand_streams() -> None:
    firsts = {
        torch.rand(1, generator=generator(0, "round", r, "client", c)).item()
        for r in range(10)
        for c in range(100)
    }
    assert len(firsts) > 990  # 1,000 of 2**24 values: a collision has a chance of 3 %


def test_neighbouring_seeds_are_not_correlated() -> None:
    """Seeds 0 to 99, 1,000 numbers each: correlations within five standard errors."""
    streams = [torch.rand(1000, generator=generator(seed, "x")).numpy() for seed in range(100)]
    for one, other in pairwise(streams):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(1000)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_who_draws_first_does_not_matter(order: list[int]) -> None:
    drawn = {c: torch.rand(2, generator=generator(7, "client", c)).tolist() for c in order}
    expected = {c: torch.rand(2, generator=generator(7, "client", c)).tolist() for c in range(3)}
    assert drawn == expected


def test_numpy_generators_are_named_alike() -> None:
    one, again, other = (numpy_generator(3, name).random(4) for name in ("a", "a", "b"))
    assert one.tolist() == again.tolist() != other.tolist()


def drawn_inside(seed: int, *names: str | int) -> list[float]:
    with seed_torch(seed, *names):
        return torch.rand(3).tolist()


def test_the_global_generator_draws_by_name_and_is_put_back() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = drawn_inside(1, "model")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert drawn_inside(1, "model") == first
    assert drawn_inside(1, "other") != first


def test_the_global_generator_is_put_back_after_an_error() -> None:
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), seed_torch(1, "model"):
        torch.rand(3) @ torch.rand(4)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_numbers_are_those_of_this_version() -> None:
    """Golden values: a change here changes the results of every experiment."""
    assert derive_seed(0, "round", 7, "client", 3) == 9085660359854611168
    assert torch.rand(1, generator=generator(0, "golden")).item() == 0.6018667221069336
    assert numpy_generator(0, "golden").integers(0, 1000, 3).tolist() == [277, 941, 57]
