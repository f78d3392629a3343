"""Confidence intervals of rates, of the area under the ROC curve, and the sign test."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv, ndtri
from torch import Tensor


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact confidence interval of a rate; NaN without any trial.

    Source: Clopper and Pearson (1934), https://doi.org/10.1093/biomet/26.4.404.

    >>> [round(bound, 4) for bound in clopper_pearson(2, 200)]
    [0.0012, 0.0357]
    """
    if trials == 0:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low = betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    failures = trials - successes
    high = betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(low), float(high)


def auc_with_interval(
    members: Float[Tensor, " m"], nonmembers: Float[Tensor, " o"], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the area under the ROC curve, with ties counted half, and its interval.

    All are NaN if a side is empty or a score is NaN; infinite scores are ordered as others are.
    With a single score on a side the interval is [0, 1].

    Source: DeLong et al. (1988), in the rank form of Sun and Xu (2014),
    https://doi.org/10.1109/LSP.2014.2337313. Guessing gives 0.5.
    """
    positive, negative = members.double().numpy(), nonmembers.double().numpy()
    m, n = len(positive), len(negative)
    if m == 0 or n == 0 or np.isnan(positive).any() or np.isnan(negative).any():
        return float("nan"), float("nan"), float("nan")
    ranks = _mean_ranks(np.concatenate([positive, negative]))
    above = (ranks[:m] - _mean_ranks(positive)) / n  # share of non-members below each member
    below = 1 - (ranks[m:] - _mean_ranks(negative)) / m  # share of members above each non-member
    area = float(above.mean())
    if m < 2 or n < 2:
        return area, 0.0, 1.0
    spread = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    half = float(ndtri((1 + confidence) / 2)) * spread
    return area, max(0.0, area - half), min(1.0, area + half)


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value from 1, with the mean rank for equal values."""
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks: NDArray[np.float64] = counts.cumsum() - (counts - 1) / 2
    return mean_ranks[position]


def sign_test(differences: Float[Tensor, " n"]) -> tuple[float, float, float, float]:
    """Return the share of positive differences, its exact interval, and a one-sided p-value.

    Zeros and NaN are left out; all are NaN if nothing remains. Chance gives a share of 0.5.

    Source: the usual definition; Conover (1999), section 3.4.

    >>> import torch
    >>> [round(number, 4) for number in sign_test(torch.tensor([0.3, 0.1, 0.2, 0.4, -0.1]))]
    [0.8, 0.2836, 0.9949, 0.1875]
    """
    signs = differences[(differences != 0) & ~differences.isnan()] > 0
    if len(signs) == 0:
        return (float("nan"),) * 4
    positive, count = int(signs.sum()), len(signs)
    low, high = clopper_pearson(positive, count)
    # By symmetry, P(X >= positive) of a fair coin is the lower tail of count - positive.
    return positive / count, low, high, float(bdtr(count - positive, count, 0.5))
