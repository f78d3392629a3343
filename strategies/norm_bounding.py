"""Norm bounding: clipping of the updates before the weighted mean."""

from dataclasses import dataclass
from typing import Any, final

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import require_above
from fl_sim.core.sums import weighted_sum


@final
@dataclass(frozen=True)
class NormBounding(InformedRule):
    """The weighted mean of the updates, each clipped to a norm bound.

    sum_i p_i u_i min(1, M / |u_i|). A client moves the step by at most its share of the examples
    times M, which limits the damage of one round; deviations within the bound remain.

    Source: Sun et al. (2019), section 4, https://arxiv.org/abs/1911.07963, without its noise. The
    median norm of the round as the bound is this project's choice for None: fewer than half of the
    clients cannot raise it above what honest clients send.

    Attributes:
        threshold: Largest L2 norm of an update, M in the paper; None uses the median norm of the
            round.
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "threshold", or_none=True)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the weighted mean of the clipped updates."""
        self.check_count(updates)
        norms = row_norms(updates)
        scales = clip_factors(norms, self.threshold or float(norms.quantile(0.5)))
        shares = weights.double() / weights.double().sum()
        step = weighted_sum(shares * scales, updates).to(updates.dtype)
        return AggregationResult(state, step, shares, scales)
