"""Static clipping, in front of any rule."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, Draw, Releases, RoundContext
from fl_sim.core import serialization
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import require
from strategies._shared.mixing import WrappingRule, apply_scales, decide_mixed, make_scaling
from strategies.median import CoordinateMedian


@final
@dataclass(frozen=True)
class StaticClipping(WrappingRule):
    """Any rule, given updates that are shortened to a fixed length where they are longer.

    Bounds what one update can do; how many attackers are withstood is for the rule to say.

    Source: the pre-aggregation "Clipping" of ByzFL (2025), https://arxiv.org/abs/2505.24802; the
    default length is ByzFL's. With `FedAvg` inside, this is `NormBounding` with a threshold.

    Attributes:
        threshold: the longest that an update may be.
        rule: what aggregates the shortened updates.
    """

    threshold: float = 2.0
    rule: AggregationRule = field(default_factory=CoordinateMedian)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.threshold > 0, "threshold", "above 0", self.threshold)

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return what the wrapped rule does: each update is shortened by itself."""
        return self.rule.releases(draws)

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return what the rule makes of the shortened updates; weights stay as they are."""
        self.check_count(updates)
        scales = clip_factors(row_norms(updates), self.threshold)
        mix = make_scaling(scales)
        return apply_scales(decide_mixed(self.rule, state, mix, updates, weights, context), scales)
