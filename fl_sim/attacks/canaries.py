"""Empirical privacy estimates from canaries: clients that send known random directions.

A single run gives an estimate: the cosine of a canary's direction with the released change of
the model shows whether its update is included.
"""

import math
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.core.seeding import generator

STEPS = 100  # of the bisection


def draw_canary(client: int, size: int, seed: int) -> Float[Tensor, " p"]:
    """Draw the direction of a canary: a random unit vector, the same in every round."""
    direction = torch.randn(size, generator=generator(seed, "canary", client))
    unit: Tensor = direction / torch.linalg.vector_norm(direction)
    return unit


def canary_epsilon(cosines: Float[Tensor, " k"], size: int, delta: float) -> float:
    """Return an estimate of epsilon from the cosines of canaries with the released change.

    Cosines of directions that were not included have mean 0 and variance 1 / size. The estimate
    is the epsilon of the Gaussian mechanism that shifts the mean as far, with equal variances:
    estimating both variances, as in algorithm 2 of the paper, makes it a fifth to a third too
    large for few canaries. It is no guarantee: an attacker may do better. 0 if canaries leave no
    trace; NaN if no cosine is defined.

    Threat model: an observer of the released model, who controls the canary clients.

    Source: Andrew et al. (2024), One-shot empirical privacy estimation for federated learning,
    section 4, https://arxiv.org/abs/2302.03098.

    Args:
        cosines: One cosine per canary.
        size: Number of released parameters.
        delta: Probability with which epsilon may be exceeded.
    """
    return gaussian_epsilon(math.sqrt(size) * float(cosines.double().nanmean()), delta)


def normal_cdf(value: float) -> float:
    """Return the standard normal distribution function, accurate in the lower tail as well."""
    return math.erfc(-value / math.sqrt(2)) / 2


def gaussian_epsilon(shift: float, delta: float) -> float:
    """Return the epsilon of a Gaussian mechanism that shifts the mean by `shift` deviations.

    Infinite for an infinite shift; NaN for NaN.

    Source: Balle and Wang (2018), theorem 8, https://arxiv.org/abs/1805.06530.

    >>> round(gaussian_epsilon(1.0, 1e-5), 3)
    4.377
    """
    if shift <= 0:
        return 0.0
    if not math.isfinite(shift):
        return shift

    def delta_at(epsilon: float) -> float:
        rest = normal_cdf(-shift / 2 - epsilon / shift)
        # exp(epsilon) alone may overflow.
        loss = math.exp(epsilon + math.log(rest)) if rest > 0 else 0.0
        return normal_cdf(shift / 2 - epsilon / shift) - loss

    low, high = 0.0, shift * (shift / 2 - NormalDist().inv_cdf(delta)) + 1.0
    if delta_at(low) <= delta:
        return 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high
