"""Coordinate-wise median."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from strategies._shared.ordered import compute_share_between, sort_chunks


@final
@dataclass(frozen=True)
class CoordinateMedian(InformedRule):
    """The coordinate-wise median; for an even number of updates, the mean of the middle two.

    Unweighted, so a client gains nothing by claiming many examples. Tolerates fewer than half of
    the clients.

    Source: Yin et al. (2018), definition 1, https://arxiv.org/abs/1803.01498.
    """

    coordinatewise: ClassVar[bool] = True

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the median; shares count the coordinates in which an update is a middle value."""
        self.check_count(updates)
        step = torch.empty_like(updates[0])
        low, high = (len(updates) - 1) // 2, len(updates) // 2
        for columns, ordered in sort_chunks(updates):
            step[columns] = (ordered[low].double() + ordered[high].double()) / 2
        return AggregationResult(state, step, compute_share_between(updates, low, high))
