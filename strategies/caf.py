"""Covariance-bound agnostic filter (CAF)."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext, Updates, Weights
from fl_sim.core.distances import centred_gram_matrix
from fl_sim.core.sums import weighted_sum
from strategies._shared.byzantine import ByzantineRule


def filter_shares(products: Float[Tensor, "n n"], num_byzantine: int) -> Float[Tensor, " n"]:
    """Return the weights with the smallest covariance norm among those that the filter visits.

    Weights start at one. While they sum to more than n - 2 f, each is multiplied by 1 - t / t_max,
    where t is the squared projection of the centred update on the first eigenvector of the weighted
    covariance, and t_max is the largest t among updates with positive weight. The projections come
    from an eigenvector of the weighted matrix of inner products.
    """
    count = len(products)
    weights = torch.ones(count, dtype=torch.float64)
    best, smallest = weights / count, torch.inf
    while float(weights.sum()) > count - 2 * num_byzantine:
        shares = weights / weights.sum()
        rows = products @ shares
        centred = products - rows[:, None] - rows[None, :] + shares @ rows
        roots = shares.sqrt()
        values, vectors = torch.linalg.eigh(roots[:, None] * centred * roots[None, :])
        if float(values[-1]) < smallest:
            best, smallest = shares, float(values[-1])
        squares = (centred @ (roots * vectors[:, -1])).square()
        largest = squares[weights > 0].max()
        if smallest <= 0 or float(largest) == 0:  # all remaining updates are equal
            break
        weights = weights * (1 - squares / largest).clamp(min=0)
    return best


@final
@dataclass(frozen=True)
class CAF(ByzantineRule):
    """The weighted mean with the smallest covariance norm that a spectral filter visits.

    The covariance-bound agnostic filter needs no bound on the variance of honest updates. Numbers
    of examples do not count. Tolerates `num_byzantine` = f < n / 2 clients.

    Source: Allouah et al. (2025), Towards Trustworthy Federated Learning with Untrusted
    Participants, https://arxiv.org/abs/2505.01874. ByzFL takes one power iteration per eigenvector
    from a random start; here eigenvectors are exact. ByzFL divides projections by the largest of
    all, so that an update with weight 0 can stall the filter; here by the largest with positive
    weight, so that each iteration removes an update.

    Attributes:
        num_byzantine: Number of attackers to tolerate.
    """

    num_byzantine: int = 1

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean with the filter's weights."""
        self.check_count(updates)
        shares = filter_shares(centred_gram_matrix(updates), self.num_byzantine)
        return AggregationResult(state, weighted_sum(shares, updates).to(updates.dtype), shares)
