"""Krum and Multi-Krum: selection by the distance to the nearest neighbours."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext, Updates, Weights
from fl_sim.core.distances import equal_shares, squared_distances
from fl_sim.core.errors import require_at_least
from strategies._shared.byzantine import ByzantineRule, average


def rank_by_score(updates: Float[Tensor, "n p"], num_byzantine: int) -> Int64[Tensor, " n"]:
    """Return the positions of the updates, best score first.

    A score is the sum of the squared distances to the n - f - 2 nearest other updates (Blanchard et
    al. 2017, section 4). Ties go to the lower position.
    """
    distances = squared_distances(updates).fill_diagonal_(torch.inf)
    nearest = distances.sort(1).values[:, : len(updates) - num_byzantine - 2]
    return nearest.sum(1).argsort(stable=True)


@final
@dataclass(frozen=True)
class Krum(ByzantineRule):
    """The one update with the closest neighbours.

    It minimises the sum of squared distances to its n - f - 2 nearest neighbours. Tolerates
    `num_byzantine` = f clients if n >= 2 f + 3.

    Source: Blanchard et al. (2017), section 4, https://arxiv.org/abs/1703.02757.

    Attributes:
        num_byzantine: Number of attackers to tolerate.
    """

    num_byzantine: int = 1

    @property
    def min_updates(self) -> int:
        """2 f + 3, the bound of the paper."""
        return 2 * self.num_byzantine + 3

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the chosen update."""
        self.check_count(updates)
        chosen = rank_by_score(updates, self.num_byzantine)[0]
        return AggregationResult(
            state, updates[chosen].clone(), equal_shares(chosen[None], len(updates))
        )


@final
@dataclass(frozen=True)
class MultiKrum(ByzantineRule):
    """The unweighted mean of the updates with the best Krum scores.

    Source: Blanchard et al. (2017), section 5, https://arxiv.org/abs/1703.02757.

    Attributes:
        num_byzantine: Number of attackers to tolerate.
        num_selected: Number of updates to average; None uses n - `num_byzantine`.
    """

    num_byzantine: int = 1
    num_selected: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "num_selected", or_none=True)

    @property
    def min_updates(self) -> int:
        """2 f + 3, the bound of the paper, and at least as many as are averaged."""
        return max(2 * self.num_byzantine + 3, self.num_selected or 0)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean of the chosen updates."""
        self.check_count(updates)
        num_selected = self.num_selected or len(updates) - self.num_byzantine
        chosen = rank_by_score(updates, self.num_byzantine)[:num_selected]
        return average(state, updates, chosen)
