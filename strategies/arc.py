"""Adaptive robust clipping (ARC), in front of any rule."""

from dataclasses import dataclass, field
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import AggregationRule
from strategies.distances import row_norms, shortening
from strategies.median import CoordinateMedian
from strategies.mixing import aggregate_mixed, check_attackers


@final
@dataclass(frozen=True)
class AdaptiveRobustClipping(AggregationRule):
    """Any rule, given updates of which the longest are shortened to the longest of the others.

    With f attackers among n, the floor of 2 f (n - f) / n longest updates are shortened.
    Withstands `num_byzantine` = f clients, fewer than half, where the rule does; its own
    `num_byzantine` has to be as large.

    Source: Allouah et al. (2024), algorithm 2, https://arxiv.org/abs/2405.14432.

    Attributes:
        num_byzantine: attackers to survive.
        rule: what aggregates the shortened updates.
    """

    num_byzantine: int = 1
    rule: AggregationRule = field(default_factory=CoordinateMedian)

    def __post_init__(self) -> None:
        description.check_types(self)
        check_attackers(self.rule, self.num_byzantine)

    @property
    def min_updates(self) -> int:
        """2 f + 1, and no fewer than the rule needs."""
        return max(2 * self.num_byzantine + 1, self.rule.min_updates)

    def initial_state(self, num_parameters: int) -> Any:
        """Return the state of the rule."""
        return self.rule.initial_state(num_parameters)

    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return what the rule makes of the shortened updates; weights stay as they are."""
        self.check_count(updates)
        count, attackers = len(updates), self.num_byzantine
        num_clipped = 2 * attackers * (count - attackers) // count
        norms = row_norms(updates)
        bound = float(norms.sort().values[count - num_clipped - 1])
        factors = shortening(norms, bound)[:, None]
        return aggregate_mixed(self.rule, state, factors.mul, updates, weights)
