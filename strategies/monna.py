"""MoNNA: the mean of the updates that are nearest to one that can be trusted."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext
from fl_sim.core.distances import row_norms
from fl_sim.core.errors import require
from strategies._shared.byzantine import ByzantineRule, average


@final
@dataclass(frozen=True)
class MoNNA(ByzantineRule):
    """The mean of the n - f updates that are nearest to a trusted one.

    That is the server's own, on clean images that it holds, or one client's. Unweighted.
    Withstands `num_byzantine` = f clients, fewer than half, none of them the trusted one. In a
    round without the trusted client nothing moves.

    Source: Farhadkhani et al. (2023), Robust Collaborative Learning with Linear Gradient
    Overhead, section 3, https://arxiv.org/abs/2209.10931: nearest-neighbour averaging, in which
    every honest node trusts itself.

    Attributes:
        num_byzantine: attackers to survive; as many updates are left out.
        trusted: number of the client that is trusted, as in ByzFL; None: the server itself.
        num_root_samples: clean images that the server holds, where it trusts itself.
    """

    num_byzantine: int = 1
    trusted: int | None = None
    num_root_samples: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        trusted = self.trusted
        allowed = "the number of a client, from 0, or None"
        require(trusted is None or trusted >= 0, "trusted", allowed, trusted)
        require(self.num_root_samples >= 1, "num_root_samples", "at least 1", self.num_root_samples)

    @property
    def root_samples(self) -> int:
        """As many as the field says, where the server trusts itself."""
        return self.num_root_samples if self.trusted is None else 0

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the mean of those nearest to the trusted update.

        Raises:
            ValueError: where the server trusts itself, without an update of its own.
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
        """Return the trusted update; None where the trusted client did not send one."""
        if self.trusted is not None:
            rows = (context.clients == self.trusted).nonzero().squeeze(1)
            return updates[int(rows[0])] if len(rows) else None
        if context.reference is None:
            raise ValueError("MoNNA needs an update of the server's own: Senders.reference")
        return context.reference
