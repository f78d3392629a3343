"""Covariance-bound agnostic filter (CAF): weigh down what sticks out, again and again."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext
from fl_sim.core.distances import centred_gram_matrix
from fl_sim.core.sums import weighted_sum
from strategies._shared.byzantine import ByzantineRule


def filter_shares(products: Float[Tensor, "n n"], num_byzantine: int) -> Float[Tensor, " n"]:
    """Return the shares, among all that the filter tries, whose covariance is smallest.

    Weights start at one. As long as they sum to more than n - 2 f, each is multiplied by
    1 - t / t_max, where t is the squared projection of the update, seen from the weighted mean,
    on the first eigenvector of the weighted covariance, and t_max the largest among those that
    still count. An eigenvector of the weighted inner products gives these projections.
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
        if smallest <= 0 or float(largest) == 0:  # those that count are all alike
            break
        weights = weights * (1 - squares / largest).clamp(min=0)
    return best


@final
@dataclass(frozen=True)
class CAF(ByzantineRule):
    """The weighted mean with the smallest covariance that a filter comes across.

    The covariance-bound agnostic filter needs no bound on how much honest updates vary. The
    weights of the clients' examples do not count. Withstands `num_byzantine` = f clients, fewer
    than half.

    Source: Allouah et al. (2025), Towards Trustworthy Federated Learning with Untrusted
    Participants, https://arxiv.org/abs/2505.01874. ByzFL takes one step of the power method for
    each eigenvector, from a random start; here they are exact. ByzFL measures projections by the
    largest of all, so that an update which no longer counts can hold the filter up for good;
    here, by the largest of those that count, so that each turn leaves one out.

    Attributes:
        num_byzantine: attackers to survive.
    """

    num_byzantine: int = 1

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the weighted mean that the filter settles on."""
        self.check_count(updates)
        shares = filter_shares(centred_gram_matrix(updates), self.num_byzantine)
        return AggregationResult(state, weighted_sum(shares, updates).to(updates.dtype), shares)
