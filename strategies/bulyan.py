"""Bulyan: repeated Krum selection, then a mean around the median of each coordinate."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext, Updates, Weights
from fl_sim.core.distances import squared_distances
from strategies._shared.byzantine import ByzantineRule
from strategies._shared.ordered import sample_coordinates, sort_chunks


def select_updates(updates: Float[Tensor, "n p"], num_byzantine: int) -> Int64[Tensor, " m"]:
    """Return the sorted positions of the n - 2 f updates that repeated Krum selects.

    With r updates left, a score is the sum of the squared distances to the r - f - 2 nearest of
    them. At the end few are left and two may be each other's nearest: ties go to the update with
    the smaller sum of distances to all that are left, then to the lower position.
    """
    distances = squared_distances(updates).fill_diagonal_(torch.inf)
    left = list(range(len(updates)))
    chosen = []
    for _ in range(len(updates) - 2 * num_byzantine):
        nearest = distances[left][:, left].sort(1).values[:, :-1]
        count = max(len(left) - num_byzantine - 2, 0)
        scores, totals = nearest[:, :count].sum(1).tolist(), nearest.sum(1).tolist()
        best = min(range(len(left)), key=lambda i: (scores[i], totals[i]))
        chosen.append(left.pop(best))
    return torch.tensor(sorted(chosen))


def average_around_median(ordered: Float[Tensor, "n c"], count: int) -> Float[Tensor, " c"]:
    """Return the mean of the `count` values nearest to the median of each column, in float64.

    The nearest values are consecutive in sorted order. If the values at both ends are equally near
    and only one of them fits, each counts half.

    Args:
        ordered: Columns of values in rising order.
        count: Number of values to average.
    """
    values = ordered.double()
    size = len(values)
    median = (values[(size - 1) // 2] + values[size // 2]) / 2
    # The window moves up while the entering value is nearer to the median than the leaving one.
    leaves, enters = median - values[: size - count], values[count:] - median
    moves = ((enters < leaves).double() + (enters <= leaves).double()) / 2
    shares = torch.ones_like(values)
    shares[count:] = moves
    shares[: size - count] -= moves
    return (shares * values).sum(0) / count


@final
@dataclass(frozen=True)
class Bulyan(ByzantineRule):
    """The coordinate-wise mean of the values near the median of the updates that Krum selects.

    Repeated Krum selects n - 2 f updates; in each coordinate the n - 4 f values nearest to their
    median are averaged. Unweighted. Tolerates `num_byzantine` = f clients if n >= 4 f + 3,
    including attackers that hide a large deviation in a few of many coordinates.

    Source: El Mhamdi et al. (2018), section 4, https://arxiv.org/abs/1802.07927. Flower's Bulyan
    takes the n - 2 f best scores of a single Krum instead.

    Attributes:
        num_byzantine: Number of attackers to tolerate.
    """

    num_byzantine: int = 1

    @property
    def min_updates(self) -> int:
        """4 f + 3, the bound of the paper."""
        return 4 * self.num_byzantine + 3

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean around the median of the selected updates."""
        self.check_count(updates)
        chosen = select_updates(updates, self.num_byzantine)
        count = len(updates) - 4 * self.num_byzantine
        step = torch.empty_like(updates[0])
        for columns, ordered in sort_chunks(updates, chosen):
            step[columns] = average_around_median(ordered.contiguous(), count).to(step.dtype)
        shares = torch.zeros(len(updates), dtype=torch.float64)
        sample = sample_coordinates(updates)[chosen].double()
        shares[chosen] = compute_share_around_median(sample, count)
        return AggregationResult(state, step, shares)


def compute_share_around_median(part: Float[Tensor, "m c"], count: int) -> Float[Tensor, " m"]:
    """Return the share of columns in which each row is among the `count` nearest to the median."""
    apart = (part - part.quantile(0.5, dim=0)).abs()
    farthest = apart.sort(0).values[count - 1]
    return (apart <= farthest).double().mean(1)
