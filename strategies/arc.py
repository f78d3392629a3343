"""Adaptive robust clipping (ARC), in front of any rule."""

from dataclasses import dataclass, field
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext
from fl_sim.core.distances import clip_factors, row_norms
from strategies._shared.mixing import RobustWrappingRule, apply_scales, decide_mixed, make_scaling
from strategies.median import CoordinateMedian


@final
@dataclass(frozen=True)
class AdaptiveRobustClipping(RobustWrappingRule):
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

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return what the rule makes of the shortened updates; weights stay as they are."""
        self.check_count(updates)
        count, attackers = len(updates), self.num_byzantine
        num_clipped = 2 * attackers * (count - attackers) // count
        norms = row_norms(updates)
        scales = clip_factors(norms, float(norms.sort().values[count - num_clipped - 1]))
        mix = make_scaling(scales)
        inner = decide_mixed(self.rule, state, mix, updates, weights, context)
        return apply_scales(inner, scales)
