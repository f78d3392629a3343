"""Mean around the median (Meamed) of each coordinate."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from fl_sim.contracts import AggregationResult, RoundContext, Updates, Weights
from strategies._shared.byzantine import ByzantineRule
from strategies._shared.ordered import sample_coordinates, sort_chunks
from strategies.bulyan import average_around_median, compute_share_around_median


@final
@dataclass(frozen=True)
class Meamed(ByzantineRule):
    """The coordinate-wise mean of the n - f values nearest to the median.

    Unweighted. If the values at both ends are equally near and only one of them fits, each counts
    half. Tolerates `num_byzantine` = f < n / 2 clients.

    Source: Xie et al. (2018), Generalized Byzantine-tolerant SGD, "mean around median",
    https://arxiv.org/abs/1802.10116.

    Attributes:
        num_byzantine: Number of attackers to tolerate; as many values are left out per coordinate.
    """

    coordinatewise: ClassVar[bool] = True

    num_byzantine: int = 1

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean around the median; shares count the coordinates that use an update."""
        self.check_count(updates)
        count = len(updates) - self.num_byzantine
        step = torch.empty_like(updates[0])
        for columns, ordered in sort_chunks(updates):
            step[columns] = average_around_median(ordered.contiguous(), count).to(step.dtype)
        return AggregationResult(
            state, step, compute_share_around_median(sample_coordinates(updates).double(), count)
        )
