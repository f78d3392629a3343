"""Effect of protection: two formulas, and the case in which one would be noise."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fl_sim.metrics.protection import MIN_DIFFERENCE, extraction_ratio, utility_gap
from fl_sim.results import compare_with_controls

accuracies = st.integers(0, 1000).map(lambda k: k / 1000)


@given(accuracies, accuracies)
def test_the_gap_is_a_difference(a_clean: float, a_mix: float) -> None:
    assert utility_gap(a_clean, a_mix) == a_clean - a_mix


@pytest.mark.parametrize(
    ("a_mix", "gap", "ratio"),
    [
        (0.90, -0.10, 1.0),  # as good as everything clean: protection is useless
        (0.80, 0.0, 0.0),  # as good as the clean part alone: protection is perfect
        (0.85, -0.05, 0.5),
        (0.75, 0.05, -0.5),  # the protected images hurt
        (0.92, -0.12, 1.2),
    ],
)
def test_known_cases(a_mix: float, gap: float, ratio: float) -> None:
    assert utility_gap(a_clean=0.80, a_mix=a_mix) == pytest.approx(gap, abs=1e-12)
    found = extraction_ratio(a_all=0.90, a_clean=0.80, a_mix=a_mix)
    assert found == pytest.approx(ratio, abs=1e-12)


@given(accuracies, accuracies, accuracies)
def test_the_ratio_is_linear_between_the_controls(
    a_all: float, a_clean: float, a_mix: float
) -> None:
    assume(a_all - a_clean >= 2 * MIN_DIFFERENCE)
    ratio = extraction_ratio(a_all, a_clean, a_mix)
    assert a_clean + ratio * (a_all - a_clean) == pytest.approx(a_mix, abs=1e-9)


@pytest.mark.parametrize("room", [-0.1, 0.0, 0.004])
def test_without_room_between_the_controls_there_is_no_ratio(room: float) -> None:
    assert math.isnan(extraction_ratio(0.8 + room, 0.8, 0.7))


def test_an_accuracy_that_is_not_defined_leaves_no_gap() -> None:
    """A result is read back from JSON, where NaN is null."""
    diverged, whole = ({"accuracy": value, "best_accuracy": value} for value in (None, 0.8))
    numbers = compare_with_controls(diverged, whole, whole)
    assert math.isnan(numbers["a_mix"])
    assert math.isnan(numbers["utility_gap"])
    assert numbers["a_all"] == 0.8
    assert all(math.isnan(n) for n in compare_with_controls(diverged, diverged, None).values())
