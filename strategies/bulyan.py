"""Bulyan: Krum selects updates one by one, then each coordinate is averaged near its median."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext
from fl_sim.core.distances import squared_distances
from strategies._shared.byzantine import ByzantineRule
from strategies._shared.ordered import sample_coordinates, sort_chunks


def select_updates(updates: Float[Tensor, "n p"], num_byzantine: int) -> Int64[Tensor, " m"]:
    """Return the positions of the n - 2 f updates that Krum picks one after the other, sorted.

    Of r updates that are left, a score sums the squared distances to the r - f - 2 nearest
    others that are left. Few are left at the end, where two updates may be each other's nearest:
    ties go to the one that is closer to all that are left, then to the lower position.
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

    Nearest values are neighbours in order, a window. Where the values at both of its ends are
    equally near and only one can stay, each counts half.

    Args:
        ordered: columns of values in rising order.
        count: how many values are averaged.
    """
    values = ordered.double()
    size = len(values)
    median = (values[(size - 1) // 2] + values[size // 2]) / 2
    # The window moves up by one while the value that enters is nearer than the one that leaves.
    leaves, enters = median - values[: size - count], values[count:] - median
    moves = ((enters < leaves).double() + (enters <= leaves).double()) / 2
    shares = torch.ones_like(values)
    shares[count:] = moves
    shares[: size - count] -= moves
    return (shares * values).sum(0) / count


@final
@dataclass(frozen=True)
class Bulyan(ByzantineRule):
    """The mean, coordinate by coordinate, of the values near the median of what Krum selects.

    Unweighted. Withstands `num_byzantine` = f clients where n is at least 4 f + 3, also such
    that hide a large lie in few of many coordinates.

    Source: El Mhamdi et al. (2018), section 4, https://arxiv.org/abs/1802.07927: n - 2 f updates
    are selected by repeated Krum, and the n - 4 f values nearest to their median are averaged.
    Flower's Bulyan takes the n - 2 f best scores of a single Krum instead.

    Attributes:
        num_byzantine: attackers to survive.
    """

    num_byzantine: int = 1

    @property
    def min_updates(self) -> int:
        """4 f + 3, the bound of the paper."""
        return 4 * self.num_byzantine + 3

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the mean around the median of the selected; nothing else is used."""
        self.check_count(updates)
        chosen = select_updates(updates, self.num_byzantine)
        count = len(updates) - 4 * self.num_byzantine
        step = torch.empty_like(updates[0])
        for columns, ordered in sort_chunks(updates, chosen):
            step[columns] = average_around_median(ordered.contiguous(), count).to(step.dtype)
        shares = torch.zeros(len(updates), dtype=torch.float64)
        shares[chosen] = compute_share_around_median(
            sample_coordinates(updates)[chosen].double(), count
        )
        return AggregationResult(state, step, shares)


def compute_share_around_median(part: Float[Tensor, "m c"], count: int) -> Float[Tensor, " m"]:
    """Return how often each is among the `count` values nearest to the median of its column."""
    apart = (part - part.quantile(0.5, dim=0)).abs()
    farthest = apart.sort(0).values[count - 1]
    return (apart <= farthest).double().mean(1)
