"""Adaptive robust clipping (ARC) before any rule."""

from dataclasses import dataclass, field
from typing import Any, final

from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext, Updates, Weights
from fl_sim.core.distances import clip_factors, row_norms
from strategies._shared.mixing import RobustWrappingRule, apply_scales, decide_mixed, make_scaling
from strategies.median import CoordinateMedian


@final
@dataclass(frozen=True)
class AdaptiveRobustClipping(RobustWrappingRule):
    """Any rule, after clipping the longest updates to the norm of the next longest (ARC).

    The floor(2 f (n - f) / n) updates with the largest norms are clipped to the largest norm among
    the others. Tolerates `num_byzantine` = f < n / 2 clients if the wrapped rule does; its own
    `num_byzantine` must be at least as large.

    Source: Allouah et al. (2024), algorithm 2, https://arxiv.org/abs/2405.14432.

    Attributes:
        num_byzantine: Number of attackers to tolerate.
        rule: Rule that aggregates the clipped updates.
    """

    num_byzantine: int = 1
    rule: AggregationRule = field(default_factory=CoordinateMedian)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the rule's result for the clipped updates; weights are unchanged."""
        self.check_count(updates)
        count, attackers = len(updates), self.num_byzantine
        num_clipped = 2 * attackers * (count - attackers) // count
        norms = row_norms(updates)
        scales = clip_factors(norms, float(norms.sort().values[count - num_clipped - 1]))
        mix = make_scaling(scales)
        inner = decide_mixed(self.rule, state, mix, updates, weights, context)
        return apply_scales(inner, scales)
