"""Coordinate-wise trimmed mean."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import AggregationRule
from fl_sim.errors import require
from strategies.ordered import ordered_chunks


@final
@dataclass(frozen=True)
class TrimmedMean(AggregationRule):
    """The mean of each coordinate without its `num_byzantine` lowest and highest values.

    Unweighted. Withstands `num_byzantine` clients, which have to be fewer than half.

    Source: Yin et al. (2018), definition 2, https://arxiv.org/abs/1803.01498.

    Attributes:
        num_byzantine: attackers to survive; as many values are cut on each side.
    """

    coordinatewise: ClassVar[bool] = True

    num_byzantine: int = 1

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.num_byzantine >= 0, "num_byzantine", "at least 0", self.num_byzantine)

    @property
    def min_updates(self) -> int:
        """One more than what is cut."""
        return 2 * self.num_byzantine + 1

    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the trimmed step, and the state as it came."""
        self.check_count(updates)
        step = torch.empty_like(updates[0])
        kept = slice(self.num_byzantine, len(updates) - self.num_byzantine)
        for columns, ordered in ordered_chunks(updates):
            step[columns] = ordered[kept].contiguous().double().mean(0).to(step.dtype)
        return state, step
