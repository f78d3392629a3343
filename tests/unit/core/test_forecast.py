"""Forecasts from the rate so far, by a clock that the test moves."""

import math

import pytest

from fl_sim.core import pass_counter
from fl_sim.core.forecast import Pace, describe_left, describe_seconds
from tests.hand_clock import HandClock


def test_the_rest_takes_as_long_as_what_was_done() -> None:
    clock = HandClock()
    pace = Pace(clock=clock)
    assert math.isnan(pace.estimate_seconds_left(0, 100))
    clock.now += 30
    assert pace.estimate_seconds_left(10, 100) == pytest.approx(270)
    assert pace.estimate_seconds_left(100, 100) == 0
    assert pace.estimate_seconds_left(110, 100) == 0  # more than was announced
    assert math.isnan(pace.estimate_seconds_left(10, math.nan))


def test_what_was_done_before_does_not_count_as_fast() -> None:
    clock = HandClock()
    pace = Pace(80, clock, elapsed=5)
    clock.now += 5
    assert pace.estimate_seconds_left(90, 100) == pytest.approx(10)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "1 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (172_700, "48.0 h"),
        (172_800, "2.0 days"),
    ],
)
def test_durations_are_told_in_one_unit(seconds: float, words: str) -> None:
    assert describe_seconds(seconds) == words
    assert describe_left(seconds) == f"about {words} left"


def test_an_unknown_time_is_not_told() -> None:
    assert describe_left(math.nan) == ""


def test_passes_are_announced_to_whoever_counts() -> None:
    pass_counter.expect(7)  # nobody counts
    heard = []
    with pass_counter.count_passes(lambda count: heard.append((count.passes, count.expected))):
        pass_counter.expect(40)
        pass_counter.count(10)
        pass_counter.expect(5)
        pass_counter.count(20)
    assert heard == [(10, 40), (30, 45)]
