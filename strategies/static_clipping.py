"""Static clipping before any rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext, Updates, Weights
from fl_sim.contracts.privacy import Draw, Releases
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import require_above
from strategies._shared.mixing import WrappingRule, apply_scales, decide_mixed, make_scaling
from strategies.median import CoordinateMedian


@final
@dataclass(frozen=True)
class StaticClipping(WrappingRule):
    """Any rule, applied to updates clipped to a fixed norm.

    Bounds the influence of one update; the number of tolerated attackers is that of the rule.

    Source: the pre-aggregation "Clipping" of ByzFL (2025), https://arxiv.org/abs/2505.24802; the
    default threshold is ByzFL's. With `FedAvg` inside, this is `NormBounding` with a threshold.

    Attributes:
        threshold: Largest L2 norm of an update.
        rule: Rule that aggregates the clipped updates.
    """

    threshold: float = 2.0
    rule: AggregationRule = field(default_factory=CoordinateMedian)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "threshold")

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return those of the wrapped rule: each update is clipped by itself."""
        return self.rule.releases(draws)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the rule's result for the clipped updates; weights are unchanged."""
        self.check_count(updates)
        scales = clip_factors(row_norms(updates), self.threshold)
        mix = make_scaling(scales)
        return apply_scales(decide_mixed(self.rule, state, mix, updates, weights, context), scales)
