"""Coordinate-wise trimmed mean."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from fl_sim.contracts import AggregationResult, RoundContext, Updates, Weights
from strategies._shared.byzantine import ByzantineRule
from strategies._shared.ordered import average_ordered, compute_share_between, sort_chunks


@final
@dataclass(frozen=True)
class TrimmedMean(ByzantineRule):
    """The coordinate-wise mean without the `num_byzantine` lowest and highest values.

    Unweighted. Tolerates `num_byzantine` = f < n / 2 clients.

    Source: Yin et al. (2018), definition 2, https://arxiv.org/abs/1803.01498.

    Attributes:
        num_byzantine: Number of attackers to tolerate; as many values are cut on each side.
    """

    coordinatewise: ClassVar[bool] = True

    num_byzantine: int = 1

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the trimmed mean; shares count the coordinates in which an update is not cut."""
        self.check_count(updates)
        step = torch.empty_like(updates[0])
        low, high = self.num_byzantine, len(updates) - self.num_byzantine
        for columns, ordered in sort_chunks(updates):
            step[columns] = average_ordered(ordered, low, high).to(step.dtype)
        return AggregationResult(state, step, compute_share_between(updates, low, high - 1))
