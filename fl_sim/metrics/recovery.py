"""Rounds that a federation takes to recover from an attack that has ended."""

from collections.abc import Mapping

TOLERANCE = 0.02  # of accuracy


def recovery_rounds(
    end: int, accuracy: Mapping[int, float], honest: Mapping[int, float]
) -> tuple[float, str]:
    """Return the rounds from an attack until accuracy is back, and a reason if it is not.

    Accuracy is back in the first evaluated round in which it is at most two points below that of
    the control in which nobody attacks. Without such a round, or rounds after the attack, the
    number is NaN.

    Args:
        end: Last round of the attack.
        accuracy: Accuracy of the run, by evaluated round.
        honest: Accuracy of the control.

    >>> recovery_rounds(2, {2: 0.3, 3: 0.5, 4: 0.69}, {2: 0.6, 3: 0.7, 4: 0.7})
    (2.0, '')
    """
    after = sorted(number for number in accuracy.keys() & honest.keys() if number > end)
    if not after:
        return float("nan"), "no round after the attack was evaluated"
    for number in after:
        if accuracy[number] >= honest[number] - TOLERANCE:
            return float(number - end), ""
    points = f"{100 * TOLERANCE:g} points"
    return float("nan"), f"not within {points} of A_honest by round {after[-1]}"
