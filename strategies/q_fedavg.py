"""q-FedAvg: more weight on clients with a high loss."""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import row_norms
from fl_sim.core.errors import require_above, require_at_least
from fl_sim.core.sums import weighted_sum

SMALLEST = 1e-10  # added to losses, as in the authors' code: a loss of 0 has no power q - 1


@final
@dataclass(frozen=True)
class QFedAvg(InformedRule):
    """Updates weighted by the q-th power of the loss, over their estimated curvature.

    Minimises sum_k p_k F_k^(q + 1) / (q + 1). With L = 1 / client learning rate and g_k = L u_k,
    the step is sum_k p_k F_k^q g_k / sum_k p_k (q F_k^(q - 1) |g_k|^2 + L F_k^q). At q = 0 it is
    FedAvg, bit by bit; the larger q, the more the worst-served client counts. Clients whose
    protection makes their loss small are taken for well served. Tolerates no attacker.

    Source: Li et al. (2020), algorithm 2, https://arxiv.org/abs/1905.10497. There clients are
    sampled in proportion to p_k, their share of the examples; here uniformly, so p_k is in the
    sums. Flower's QFedAvg leaves p_k out, and uses the loss after training that clients report; the
    paper's is that of the global model.

    Attributes:
        q: Exponent that trades the mean for fairness.
        client_learning_rate: Learning rate of the clients; its inverse estimates the Lipschitz
            constant L.
    """

    q: float = 1.0
    client_learning_rate: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "q")
        require_above(self, 0, "client_learning_rate")

    @property
    def needs_losses(self) -> bool:
        """Always True: the loss of the global model on each client's shard."""
        return True

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the sum of the weighted updates over the sum of their curvatures."""
        self.check_count(updates)
        losses, squares = context.losses.double() + SMALLEST, row_norms(updates).square()
        shares = self._compute_shares(losses, squares, weights.double(), 1.0)
        if not bool(shares.isfinite().all()):  # overflow: relative to the largest loss
            shares = self._compute_shares(losses, squares, weights.double(), float(losses.max()))
        return AggregationResult(state, weighted_sum(shares, updates).to(updates.dtype), shares)

    def _compute_shares(
        self,
        losses: Float[Tensor, " n"],
        squares: Float[Tensor, " n"],
        weights: Float[Tensor, " n"],
        unit: float,
    ) -> Float[Tensor, " n"]:
        """Return the coefficients of the updates, with losses measured in `unit`, which cancels."""
        ratios = losses / unit
        powers = ratios**self.q
        # L cancels: h_k / L = q F^(q - 1) L |u|^2 + F^q, with L u for the gradient.
        bends = self.q * ratios ** (self.q - 1) / self.client_learning_rate
        curvatures = bends * (squares / unit) + powers
        return weights * powers / (weights * curvatures).sum()
