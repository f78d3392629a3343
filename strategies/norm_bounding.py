"""Norm bounding: no update is longer than a bound."""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext
from fl_sim.core import serialization
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import require
from fl_sim.core.sums import weighted_sum


@final
@dataclass(frozen=True)
class NormBounding(InformedRule):
    """The weighted mean of the updates, each shortened to a bound where it is longer.

    A client moves the step by at most its share of the examples times the bound. That limits
    what one round of lies can do; there is no breakdown point, as lies within the bound stay.

    Source: Sun et al. (2019), section 4, https://arxiv.org/abs/1911.07963, without its noise.
    The bound from the round's own median is this project's choice for None: fewer than half of
    the clients cannot move it beyond what honest ones send.

    Attributes:
        threshold: the longest that an update may be; None: the median length of the round.
    """

    threshold: float | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        bound = self.threshold
        require(bound is None or bound > 0, "threshold", "above 0, or None", bound)

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the weighted mean of the bounded updates."""
        self.check_count(updates)
        norms = row_norms(updates)
        scales = clip_factors(norms, self.threshold or float(norms.quantile(0.5)))
        shares = weights.double() / weights.double().sum()
        step = weighted_sum(shares * scales, updates).to(updates.dtype)
        return AggregationResult(state, step, shares, scales)
