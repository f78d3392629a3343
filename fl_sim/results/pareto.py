"""Pareto fronts of settings that were run with several seeds."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

CONFIDENCE = 0.95


def find_dominated(
    values: Float[np.ndarray, "points quantities seeds"], confidence: float = CONFIDENCE
) -> Bool[np.ndarray, "points points"]:
    """Return, in row i and column j, whether point i is dominated by point j beyond the spread.

    Point j is better than i in a quantity beyond the spread if the mean over seeds of the paired
    differences, j minus i, exceeds half of their confidence interval: t s / sqrt(n), with the
    sample standard deviation s of the n differences and the quantile t of Student's distribution
    with n - 1 degrees of freedom. The two tie if all differences are 0. Point j dominates i if
    each quantity is a tie or better, and at least one is better. With one seed there is no
    spread, and any difference counts.

    Since all pairs share their seeds, half of the interval obeys the triangle inequality, and the
    relation is a strict partial order: some point is never dominated, and a dominated point
    changes nothing for the others.

    Args:
        values: Quantities per point and seed, oriented so that larger is better.
        confidence: Level of the intervals.
    """
    num_points, _, num_seeds = values.shape
    factor = 0.0
    if num_seeds > 1:
        factor = float(stdtrit(num_seeds - 1, (1 + confidence) / 2)) / np.sqrt(num_seeds)
    dominated = np.zeros((num_points, num_points), bool)
    for other in range(num_points):
        differences = values[other] - values
        spread = differences.std(-1, ddof=1) if num_seeds > 1 else 0.0
        better = differences.mean(-1) > factor * spread
        tie = (differences == 0).all(-1)
        dominated[:, other] = (better | tie).all(-1) & better.any(-1)
    return dominated


def find_dominated_in_pairs(
    values: Float[np.ndarray, "points quantities seeds"], confidence: float = CONFIDENCE
) -> Bool[np.ndarray, "points points"]:
    """Return which points are dominated beyond the spread, where points have different seeds.

    Two points are compared as in `find_dominated` over the seeds that both have, and have to be in
    the same order in the means over all their seeds, so that the relation has no cycle. The means
    alone decide for two points that share fewer than two seeds.

    Args:
        values: As in `find_dominated`; NaN where a point lacks a seed. No point lacks all.
        confidence: Level of the intervals.
    """
    if not np.isnan(values).any():
        return find_dominated(values, confidence)
    dominated = find_dominated(np.nanmean(values, -1, keepdims=True))
    for i, j in np.argwhere(dominated):
        pair = values[[i, j]]
        pair = pair[:, :, ~np.isnan(pair).any((0, 1))]
        if pair.shape[-1] > 1:
            dominated[i, j] = find_dominated(pair, confidence)[0, 1]
    return dominated


def find_front(means: Float[np.ndarray, "points quantities"]) -> Bool[np.ndarray, " points"]:
    """Return which points no other is at least as good as in every mean, and better in one.

    Args:
        means: Means per point, oriented so that larger is better.
    """
    return np.asarray(~find_dominated(means[:, :, None]).any(axis=1))


def compute_interval(
    values: Float[np.ndarray, " seeds"], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return Student's confidence interval of the mean; NaN for fewer than two values.

    >>> low, high = compute_interval(np.array([1.0, 2.0, 3.0]))
    >>> round(low, 2), round(high, 2)
    (-0.48, 4.48)
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    factor = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    half = factor * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)
