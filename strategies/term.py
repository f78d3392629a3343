"""Tilted empirical risk minimisation (TERM), between the mean and the extreme losses."""

from dataclasses import dataclass
from typing import Any, final

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.sums import weighted_sum


@final
@dataclass(frozen=True)
class TERM(InformedRule):
    """Updates weighted by the exponential of the loss: tilted empirical risk (TERM).

    Follows the gradient of log(sum_k p_k exp(t F_k)) / t. At a tilt t of 0 it is FedAvg, bit by
    bit; a large t counts the worst-served client alone, a negative t suppresses clients with a high
    loss. Tolerates no attacker: with a positive tilt, a high loss gains influence.

    Source: Li et al. (2021), definition 1 and lemma 1, https://arxiv.org/abs/2007.01162, with
    clients in place of samples.

    Attributes:
        tilt: Tilt of the risk; t in the paper.
    """

    tilt: float = 1.0

    @property
    def needs_losses(self) -> bool:
        """Always True: the loss of the global model on each client's shard."""
        return True

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean weighted by examples and tilted losses."""
        self.check_count(updates)
        exponents = self.tilt * context.losses.double()
        if not bool(exponents.isfinite().all()):  # overflow: relative to the largest
            losses = context.losses.double()
            exponents = self.tilt * (losses - (losses.max() if self.tilt > 0 else losses.min()))
        tilted = weights.double() * (exponents - exponents.max()).exp()
        shares = tilted / tilted.sum()
        return AggregationResult(state, weighted_sum(shares, updates).to(updates.dtype), shares)
