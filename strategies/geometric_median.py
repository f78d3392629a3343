"""Geometric median of the updates, also known as RFA."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import centred_gram_matrix
from fl_sim.core.errors import require_above, require_at_least
from fl_sim.core.sums import weighted_sum

SETTLED = 1e-12  # largest relative change of a coefficient at convergence


def run_weiszfeld(
    products: Float[Tensor, "n n"],
    shares: Float[Tensor, " n"],
    start: Float[Tensor, " n"],
    smoothing: float,
    num_iterations: int,
) -> Float[Tensor, " n"]:
    """Return the coefficients of the geometric median, by smoothed Weiszfeld iterations.

    Every iterate is a weighted mean of the updates, so inner products are sufficient.

    Args:
        products: Inner products of the updates, from any origin.
        shares: Weight of the distance to each update.
        start: Coefficients of the first iterate; they sum to one.
        smoothing: Lower bound of the distances that are divided by.
        num_iterations: Largest number of iterations.
    """
    current = start
    for _ in range(num_iterations):
        projected = products @ current
        squares = products.diagonal() - 2 * projected + current @ projected
        raw = shares / squares.clamp(min=0).sqrt().clamp(min=smoothing)
        last, current = current, raw / raw.sum()
        if bool(((current - last).abs() <= SETTLED * current).all()):
            break
    return current


@final
@dataclass(frozen=True)
class GeometricMedian(InformedRule):
    """The point with the smallest weighted sum of distances to the updates.

    argmin over v of sum_i alpha_i |u_i - v|, by iterations that weight each update by alpha_i /
    max(nu, |u_i - v|). Tolerates clients that hold less than half of all examples; unweighted, less
    than half of the clients.

    Source: Pillutla et al. (2022), algorithm 2, https://arxiv.org/abs/1912.13445. In the paper each
    iteration costs a round of communication, so three must do; here all but the first are nearly
    free, and it runs until it converges. It starts at the weighted mean.

    Attributes:
        weighted: Whether clients are weighted by the size of their shards.
        smoothing: Lower bound of the distances that are divided by; nu in the paper.
        num_iterations: Largest number of iterations.
    """

    weighted: bool = True
    smoothing: float = 1e-6
    num_iterations: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "smoothing")
        require_at_least(self, 1, "num_iterations")

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the geometric median, and the coefficients that give it."""
        self.check_count(updates)
        counted = weights.double() if self.weighted else torch.ones(len(updates)).double()
        start = counted / counted.sum()
        products = centred_gram_matrix(updates)
        shares = run_weiszfeld(products, start, start, self.smoothing, self.num_iterations)
        return AggregationResult(state, weighted_sum(shares, updates).to(updates.dtype), shares)
