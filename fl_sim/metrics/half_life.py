"""Half-life of a backdoor that the start model has."""

from collections.abc import Sequence


def half_life(start: float, rates: Sequence[tuple[int, float]]) -> float:
    """Return the first evaluated round from which on the success rate is at most half of `start`.

    A rate that falls and rises again has not fallen yet. NaN if the last rate is above half of
    `start`, or if either is NaN: the backdoor outlives the run.

    Args:
        start: Success rate of the start model.
        rates: Rounds and the success rates after them, in order.

    >>> half_life(0.9, [(2, 0.3), (4, 0.8), (6, 0.45), (8, 0.4)])
    6.0
    """
    first = float("nan")
    for round_num, rate in reversed(rates):
        if not rate <= start / 2:
            break
        first = float(round_num)
    return first
