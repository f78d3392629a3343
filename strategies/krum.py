"""Krum and Multi-Krum: take the updates that have the closest neighbours."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import AggregationRule
from fl_sim.errors import require
from fl_sim.sums import weighted_sum
from strategies.distances import squared_distances


def krum_order(updates: Float[Tensor, "n p"], num_byzantine: int) -> Int64[Tensor, " n"]:
    """Return the positions of the updates, best score first.

    A score is the sum of the squared distances to the n - f - 2 nearest others (Blanchard et
    al. 2017, section 4). Ties go to the lower position.
    """
    distances = squared_distances(updates).fill_diagonal_(torch.inf)
    nearest = distances.sort(1).values[:, : len(updates) - num_byzantine - 2]
    return nearest.sum(1).argsort(stable=True)


@final
@dataclass(frozen=True)
class Krum(AggregationRule):
    """The one update with the closest neighbours.

    Source: Blanchard et al. (2017), section 4, https://arxiv.org/abs/1703.02757. Withstands
    `num_byzantine` = f clients where n is at least 2 f + 3.

    Attributes:
        num_byzantine: attackers to survive.
    """

    num_byzantine: int = 1

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.num_byzantine >= 0, "num_byzantine", "at least 0", self.num_byzantine)

    @property
    def min_updates(self) -> int:
        """2 f + 3, the bound of the paper."""
        return 2 * self.num_byzantine + 3

    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the chosen update, and the state as it came."""
        self.check_count(updates)
        return state, updates[krum_order(updates, self.num_byzantine)[0]].clone()


@final
@dataclass(frozen=True)
class MultiKrum(AggregationRule):
    """The unweighted mean of the updates with the closest neighbours.

    Source: Blanchard et al. (2017), section 5, https://arxiv.org/abs/1703.02757.

    Attributes:
        num_byzantine: attackers to survive.
        num_selected: updates that are averaged; None: all but `num_byzantine`.
    """

    num_byzantine: int = 1
    num_selected: int | None = None

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.num_byzantine >= 0, "num_byzantine", "at least 0", self.num_byzantine)
        wanted = self.num_selected
        require(wanted is None or wanted >= 1, "num_selected", "at least 1, or None", wanted)

    @property
    def min_updates(self) -> int:
        """2 f + 3, the bound of the paper, and no fewer than are averaged."""
        return max(2 * self.num_byzantine + 3, self.num_selected or 0)

    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the mean of the chosen updates, and the state as it came."""
        self.check_count(updates)
        wanted = self.num_selected or len(updates) - self.num_byzantine
        chosen = krum_order(updates, self.num_byzantine)[:wanted].sort().values
        mean = torch.full((wanted,), 1 / wanted, dtype=torch.float64)
        return state, weighted_sum(mean, updates, chosen).to(updates.dtype)
