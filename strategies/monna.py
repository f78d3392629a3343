"""Mean of the nearest neighbours of a trusted update (MoNNA)."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext, Updates, Weights
from fl_sim.core.distances import row_norms
from fl_sim.core.errors import require, require_at_least
from strategies._shared.byzantine import ByzantineRule, average


@final
@dataclass(frozen=True)
class MoNNA(ByzantineRule):
    """The mean of the n - f updates that are nearest to a trusted one.

    The trusted update is the server's own, on clean images that it holds, or that of one client.
    Unweighted. Tolerates `num_byzantine` = f < n / 2 clients other than the trusted one. In a round
    without the trusted client the model does not move.

    Source: Farhadkhani et al. (2023), Robust Collaborative Learning with Linear Gradient Overhead,
    section 3, https://arxiv.org/abs/2209.10931: nearest-neighbour averaging, in which every honest
    node trusts itself.

    Attributes:
        num_byzantine: Number of attackers to tolerate; as many updates are left out.
        trusted: Number of the trusted client, as in ByzFL; None trusts the server's own update.
        num_root_samples: Number of clean images on the server, if it trusts its own update.
    """

    num_byzantine: int = 1
    trusted: int | None = None
    num_root_samples: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        trusted = self.trusted
        allowed = "the number of a client, from 0, or None"
        require(trusted is None or trusted >= 0, "trusted", allowed, trusted)
        require_at_least(self, 1, "num_root_samples")

    @property
    def root_samples(self) -> int:
        """Number of clean images on the server; 0 if a client is trusted."""
        return self.num_root_samples if self.trusted is None else 0

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean of the updates nearest to the trusted one.

        Raises:
            ValueError: If the server's own update is needed and missing.
        """
        self.check_count(updates)
        pivot = self._find_pivot(updates, context)
        nearest = torch.empty(0, dtype=torch.int64)
        if pivot is not None:
            distances = row_norms(updates, pivot.double())
            nearest = distances.argsort(stable=True)[: len(updates) - self.num_byzantine]
        return average(state, updates, nearest)

    def _find_pivot(
        self, updates: Float[Tensor, "n p"], context: RoundContext
    ) -> Float[Tensor, " p"] | None:
        """Return the trusted update; None if the trusted client did not send one."""
        if self.trusted is not None:
            rows = (context.clients == self.trusted).nonzero().squeeze(1)
            return updates[int(rows[0])] if len(rows) else None
        if context.reference is None:
            raise ValueError("MoNNA needs an update of the server's own: RoundContext.reference")
        return context.reference
