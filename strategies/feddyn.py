"""The server side of FedDyn: averaging with dynamic regularisation."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.errors import require_above
from fl_sim.core.sums import weighted_sum

ALPHA = "feddyn_alpha"  # name of the broadcast value, also in clients/feddyn.py


@final
@dataclass(frozen=True)
class FedDyn(InformedRule):
    """The unweighted mean of the clients' models, corrected by their accumulated drift.

    h <- h - (alpha / N) sum_i u_i over all N clients, and the new model is the mean of the received
    models minus h / alpha. Needs `clients.feddyn.FedDynClient`, which receives alpha; with clients
    that train without the regulariser the correction overshoots. Tolerates no attacker.

    Source: Acar et al. (2021), algorithm 1, https://arxiv.org/abs/2111.04263.

    Attributes:
        alpha: Weight of the regularisation, on clients and server.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "alpha")

    def initial_state(self, num_parameters: int) -> Float[Tensor, " p"]:
        """Return h, initially zero."""
        return torch.zeros(num_parameters, dtype=torch.float64)

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return alpha."""
        return {ALPHA: torch.tensor([self.alpha])}

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean minus h / alpha, and the next h.

        Shares are what the updates of this round add to the step, through h as well.
        """
        self.check_count(updates)
        each = torch.ones(len(updates), dtype=torch.float64)
        total = weighted_sum(each, updates)
        after = state - self.alpha * total / context.num_clients
        step = total / len(updates) - after / self.alpha
        shares = each / len(updates) + each / context.num_clients
        return AggregationResult(after, step.to(updates.dtype), shares)
