"""Centred clipping of the differences to the last step."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import clip_factors, row_norms
from fl_sim.core.errors import require_above, require_at_least
from fl_sim.core.sums import weighted_sum


@final
@dataclass(frozen=True)
class CenteredClipping(InformedRule):
    """The last step v plus the mean of the clipped differences to it.

    v <- v + (1 / n) sum_i (u_i - v) min(1, tau / |u_i - v|), repeated l times. Unweighted. A client
    moves the step by at most `threshold` / n per iteration. The paper proves robustness to about a
    tenth of the clients for updates that carry momentum; attacks that persist over many rounds can
    get past it.

    Source: Karimireddy et al. (2021), section 4, https://arxiv.org/abs/2012.10333. The first round
    starts at zero. Default values are those of ByzFL.

    Attributes:
        threshold: Clipping radius; tau in the paper.
        num_iterations: Number of clipped iterations per round; l in the paper.
    """

    threshold: float = 100.0
    num_iterations: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "threshold")
        require_at_least(self, 1, "num_iterations")

    def initial_state(self, num_parameters: int) -> Float[Tensor, " p"]:
        """Return a last step of zero."""
        return torch.zeros(num_parameters, dtype=torch.float64)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the step, kept in float64 as the next state.

        The scales are those of the differences in the last iteration.
        """
        self.check_count(updates)
        step, scales = state, torch.ones(len(updates), dtype=torch.float64)
        for _ in range(self.num_iterations):
            scales = clip_factors(row_norms(updates, step), self.threshold)
            factors = scales / len(updates)
            step = (1 - factors.sum()) * step + weighted_sum(factors, updates)
        shares = torch.full_like(scales, 1 / len(updates))
        return AggregationResult(step, step.to(updates.dtype), shares, scales)
