"""Pareto fronts against their definition, and properties that must hold for any values."""

from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from fl_sim.results.pareto import compute_interval, find_dominated, find_front

Point = Sequence[Sequence[float]]  # values by quantity and seed


def dominates(j: Point, i: Point, confidence: float) -> bool:
    """Compare two points word by word as the docstring defines it, in plain Python."""
    any_better = False
    for own, other in zip(j, i, strict=True):
        differences = [a - b for a, b in zip(own, other, strict=True)]
        if all(difference == 0 for difference in differences):
            continue
        half, n = 0.0, len(differences)
        if n > 1:
            quantile = student.ppf(1 - (1 - confidence) / 2, n - 1)
            half = quantile * stdev(differences) / n**0.5
        if not fmean(differences) > half:
            return False
        any_better = True
    return any_better


def grids(max_points: int = 7, max_seeds: int = 4) -> st.SearchStrategy[np.ndarray]:
    """Strategy of small whole values, so that ties and constant differences occur."""
    shapes = st.tuples(st.integers(1, max_points), st.integers(1, 3), st.integers(1, max_seeds))
    return shapes.flatmap(lambda shape: arrays(float, shape, elements=st.integers(0, 6).map(float)))


@given(grids(), st.sampled_from([0.5, 0.9, 0.95]))
def test_it_is_the_slow_definition(values: np.ndarray, confidence: float) -> None:
    found = find_dominated(values, confidence)
    slow = [[dominates(j, i, confidence) for j in values.tolist()] for i in values.tolist()]
    assert found.tolist() == slow


@given(grids())
def test_some_point_is_never_dominated(values: np.ndarray) -> None:
    assert not find_dominated(values).any(1).all()
    assert find_front(values.mean(-1)).any()


@given(grids(), st.randoms())
def test_the_order_of_the_points_does_not_matter(values: np.ndarray, random: object) -> None:
    order = np.array(random.sample(range(len(values)), len(values)))  # type: ignore[attr-defined]
    found = find_dominated(values)
    np.testing.assert_array_equal(find_dominated(values[order]), found[order][:, order])


@given(grids())
def test_a_dominated_point_changes_nothing_for_the_others(values: np.ndarray) -> None:
    dominated = find_dominated(values).any(1)
    for out in np.flatnonzero(dominated):
        kept = np.arange(len(values)) != out
        np.testing.assert_array_equal(find_dominated(values[kept]).any(1), dominated[kept])


@given(grids())
def test_the_relation_is_a_strict_partial_order(values: np.ndarray) -> None:
    found = find_dominated(values).astype(int)
    assert not found.diagonal().any()
    assert not (found & found.T).any()
    assert not (((found @ found) > 0) & (found == 0)).any()


@given(grids())
def test_what_is_dominated_beyond_the_spread_is_dominated_in_the_means(values: np.ndarray) -> None:
    assert not (find_dominated(values).any(1) & find_front(values.mean(-1))).any()


def test_a_difference_within_the_spread_dominates_nothing() -> None:
    bytes_, noisy = [-1.0, -1.0, -1.0], [0.8, 0.9, 0.7]
    values = np.array([[bytes_, [0.75, 0.85, 0.65]], [bytes_, noisy], [bytes_, [0.9, 0.7, 0.85]]])
    found = find_dominated(values)
    assert found[0].tolist() == [False, True, False]  # the same seeds are worse by the same
    assert not found[1:].any()
    assert find_front(values.mean(-1)).tolist() == [False, False, True]


def test_at_equal_cost_the_more_accurate_point_dominates() -> None:
    values = np.array([[[-2.0, -2.0], [0.5, 0.6]], [[-2.0, -2.0], [0.7, 0.8]]])
    assert find_dominated(values).tolist() == [[False, True], [False, False]]


def test_the_interval_is_that_of_the_t_test() -> None:
    values = np.array([0.3, 0.5, 0.45, 0.7])
    expected = ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert compute_interval(values, 0.9) == pytest.approx((expected.low, expected.high))
    assert np.isnan(compute_interval(values[:1])).all()
