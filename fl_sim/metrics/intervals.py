"""Intervals: what a count or a ranking of this size can say."""

import numpy as np
from jaxtyping import Float
from scipy.stats import beta, norm, rankdata
from torch import Tensor


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a rate.

    Source: Clopper and Pearson (1934), https://doi.org/10.1093/biomet/26.4.404.

    >>> [round(bound, 4) for bound in clopper_pearson(2, 200)]
    [0.0012, 0.0357]
    """
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, successes, trials - successes + 1) if successes > 0 else 0.0
    high = beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def auc_with_interval(
    members: Float[Tensor, " m"], outsiders: Float[Tensor, " o"], confidence: float = 0.95
) -> tuple[float, float, float]:
    """Return the area under the ROC curve, ties counted half, and its interval.

    Source: DeLong et al. (1988), in the rank form of Sun and Xu (2014),
    https://doi.org/10.1109/LSP.2014.2337313. Guessing gives 0.5.
    """
    positive, negative = members.double().numpy(), outsiders.double().numpy()
    m, n = len(positive), len(negative)
    if m == 0 or n == 0:
        return float("nan"), float("nan"), float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - rankdata(positive)) / n  # share of outsiders below each member
    below = 1 - (ranks[m:] - rankdata(negative)) / m  # share of members above each outsider
    area = float(above.mean())
    if m < 2 or n < 2:
        return area, 0.0, 1.0
    spread = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    half = float(norm.ppf((1 + confidence) / 2)) * spread
    return area, max(0.0, area - half), min(1.0, area + half)
