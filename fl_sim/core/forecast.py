"""Forecasts: the time that work will take, from the rate of what has been done of it."""

import math
from collections.abc import Callable
from time import perf_counter

Clock = Callable[[], float]  # seconds from any start

MINUTE, HOUR, DAY = 60, 3600, 86400


class Pace:
    """Progress of work since it began, and the time that the rest of it will take."""

    def __init__(
        self, done: int | float = 0, clock: Clock = perf_counter, elapsed: int | float = 0
    ) -> None:
        """Begin `elapsed` seconds ago, with the number of items that were done by then."""
        self.first, self.clock, self.began = done, clock, clock() - elapsed

    def estimate_seconds_left(self, done: int | float, total: int | float) -> float:
        """Return the seconds until `total` items are done; NaN before any is, or for NaN."""
        made = done - self.first
        if made <= 0:
            return math.nan
        return (self.clock() - self.began) / made * (total - min(done, total))


def describe_seconds(seconds: int | float) -> str:
    """Return a duration in one unit, with at most two figures after rounding.

    >>> [describe_seconds(s) for s in (0.2, 75, 100, 5000, 10_000, 400_000)]
    ['1 s', '75 s', '2 min', '83 min', '2.8 h', '4.6 days']
    """
    for name, unit, most in (("s", 1, 90), ("min", MINUTE, 90), ("h", HOUR, 48)):
        if seconds < most * unit:
            return f"{_round(seconds / unit, name)} {name}"
    return f"{seconds / DAY:.1f} days"


def _round(value: float, unit: str) -> str:
    return f"{value:.1f}" if unit == "h" else str(max(1, round(value)))


def describe_left(seconds: int | float) -> str:
    """Return the time left in words; an empty string for NaN."""
    return "" if math.isnan(seconds) else f"about {describe_seconds(seconds)} left"
