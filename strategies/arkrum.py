"""Average-rKrum (ArKrum): Krum with an estimate of the number of attackers."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import squared_distances
from fl_sim.core.errors import require_at_least
from strategies._shared.byzantine import average


def count_outliers(distances: Float[Tensor, " k"], gap_ratio: float, distance_ratio: float) -> int:
    """Return the number of outliers among the distances from one update to the others.

    Distances above median + (median - smallest) are outliers. If the remaining ones break at their
    largest gap and more of them lie behind it, those are the outliers instead. A gap is a break if
    it exceeds `gap_ratio` times the median of the other gaps and the distances behind it are at
    least `distance_ratio` times those before it.

    Args:
        distances: Distances from one update to each of the others, in rising order.
        gap_ratio: Smallest ratio of a break to the median of the other gaps.
        distance_ratio: Smallest ratio of the distances behind a break to those before it.
    """
    median = distances[len(distances) // 2]
    remaining = distances[distances <= median + (median - distances[0])]
    extreme = len(distances) - len(remaining)
    if len(remaining) < 3:
        return extreme
    gaps = remaining.diff()
    place = int(gaps.argmax())
    others = torch.cat([gaps[:place], gaps[place + 1 :]])
    usual = others.sort().values[len(others) // 2]
    stands_out = gaps[place] > gap_ratio * usual
    far = remaining[place + 1] >= distance_ratio * remaining[place]
    behind = len(remaining) - place - 1 if bool(stands_out & far) else 0
    return max(extreme, behind)


@final
@dataclass(frozen=True)
class ArKrum(InformedRule):
    """The mean of the updates around Krum's choice, with f estimated in each round.

    For each update, outliers among its distances to the others are counted as attackers, up to the
    (n - 3) / 2 that Krum allows. The update with the best Krum score under its own count f is
    chosen, and averaged with its nearest neighbours, n - f updates in all. Unweighted. Attackers
    that lie closer together than honest clients do, or within their spread, are not detected.

    Source: Yang and Imam (2025), algorithms 1 and 2, https://arxiv.org/abs/2505.17226. The paper
    does not define a break among distances; the two ratios are those of velocity-fl.

    Attributes:
        gap_ratio: Ratio of the largest gap between neighbouring distances to the median of the
            other gaps, above which it may be a break.
        distance_ratio: Smallest ratio of the distances behind a break to those before it.
    """

    gap_ratio: float = 5.0
    distance_ratio: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "gap_ratio", "distance_ratio")

    @property
    def min_updates(self) -> int:
        """5: the smallest number for which Krum tolerates one attacker."""
        return 5

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean around the chosen update."""
        self.check_count(updates)
        count, squares = len(updates), squared_distances(updates)
        others = squares.clone().fill_diagonal_(torch.inf).sort(1).values[:, :-1]
        most = (count - 3) // 2
        counts = [
            min(most, count_outliers(row.sqrt(), self.gap_ratio, self.distance_ratio))
            for row in others
        ]
        scores = [float(row[: count - f - 2].sum()) for row, f in zip(others, counts, strict=True)]
        chosen = min(range(count), key=lambda i: scores[i])
        near = squares[chosen].clone()
        near[chosen] = -1  # itself first, even among duplicates
        nearest = near.argsort(stable=True)[: count - counts[chosen]]
        return average(state, updates, nearest)
