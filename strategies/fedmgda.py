"""FedMGDA+: a direction along which no client loses."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import cosines_from_gram, uncentred_gram_matrix
from fl_sim.core.errors import require, require_above
from fl_sim.core.sums import weighted_sum

SETTLED = 1e-12  # largest change of a coefficient at convergence
MOST = 20_000  # iterations, of microseconds each


@final
@dataclass(frozen=True)
class FedMGDAPlus(InformedRule):
    """The shortest convex combination of the normalised updates (FedMGDA+).

    Minimises |sum_i lambda_i u_i / |u_i|| over the simplex, with each lambda_i within epsilon of 1
    / n: 0 gives the mean direction, 1 the shortest of all combinations. All clients gain as far as
    their directions agree. Updates count by direction alone, so a long one gains nothing, but an
    attacker may still turn the direction or cancel it.

    Source: Hu et al. (2022), algorithm 1, https://arxiv.org/abs/2006.11489. The step is never
    longer than `server_learning_rate`.

    Attributes:
        room: Largest distance of a coefficient from 1 / n; epsilon in the paper.
        server_learning_rate: Factor of the direction; eta in the paper.
    """

    room: float = 0.1
    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.room <= 1, "room", "in [0, 1]", self.room)
        require_above(self, 0, "server_learning_rate")

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the scaled direction; the scales normalise the updates."""
        self.check_count(updates)
        products = uncentred_gram_matrix(updates)
        norms = products.diagonal().sqrt()
        units = torch.where(norms > 0, 1 / norms, 0.0)
        even = torch.full_like(norms, 1 / len(norms))
        low, high = (even - self.room).clamp(min=0), (even + self.room).clamp(max=1)
        shares = find_shortest_mixture(cosines_from_gram(products), low, high)
        step = self.server_learning_rate * weighted_sum(shares * units, updates)
        return AggregationResult(state, step.to(updates.dtype), shares, units)


def find_shortest_mixture(
    products: Float[Tensor, "n n"], low: Float[Tensor, " n"], high: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the coefficients of the shortest combination, within bounds and of sum one.

    Projected gradient descent with momentum that restarts whenever it leads uphill (FISTA with
    adaptive restart: Beck and Teboulle 2009; O'Donoghue and Candes 2015).

    Args:
        products: Inner products of the vectors to combine.
        low, high: Bounds of each coefficient; 1 / n must lie between them.
    """
    rate = 1 / max(float(torch.linalg.matrix_norm(products, 2)), torch.finfo().tiny)
    now = ahead = torch.full_like(low, 1 / len(low))
    pace = 1.0
    for _ in range(MOST):
        after = project_onto_box(ahead - rate * (products @ ahead), low, high)
        if float((after - ahead).abs().max()) <= SETTLED:
            return after
        if float((ahead - after) @ (after - now)) > 0:
            pace = 1.0
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead = after + (pace - 1) / faster * (after - now)
        now, pace = after, faster
    return now


def project_onto_box(
    values: Float[Tensor, " n"], low: Float[Tensor, " n"], high: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return the nearest vector between `low` and `high` that sums to one.

    It is the vector shifted by one number and clamped. The sum is piecewise linear in that number,
    with bends where a value meets a bound.
    """
    bends = torch.cat([low - values, high - values]).sort().values
    sums = (values + bends[:, None]).clamp(low, high).sum(1)
    above = int((sums < 1).sum())
    if above == 0:
        return low
    if above == len(bends):
        return high
    left, right = bends[above - 1], bends[above]
    part = (1 - sums[above - 1]) / (sums[above] - sums[above - 1])
    return (values + left + part * (right - left)).clamp(low, high)
