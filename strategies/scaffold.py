"""The server side of SCAFFOLD: averaging with control variates."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.errors import require_above
from fl_sim.core.sums import weighted_sum

CONTROL = "control"  # name of the vector sent in both directions, also in clients/scaffold.py


@final
@dataclass(frozen=True)
class SCAFFOLD(InformedRule):
    """The unweighted mean of the updates; clients correct their drift by control variates.

    c <- c + (1 / N) sum_i (change of c_i) over all N clients. Needs
    `clients.scaffold.ScaffoldClient`, which receives c and sends the change of its own control
    variate c_i beside its update; with other clients this is a plain mean. Tolerates no attacker.

    Source: Karimireddy et al. (2020), algorithm 1, https://arxiv.org/abs/1910.06378.

    Attributes:
        server_learning_rate: Factor of the mean; eta_g in the paper.
    """

    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "server_learning_rate")

    def initial_state(self, num_parameters: int) -> Float[Tensor, " p"]:
        """Return a control variate of zero."""
        return torch.zeros(num_parameters, dtype=torch.float64)

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return the server's control variate."""
        return {CONTROL: state.float()}

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the scaled mean and the next control variate."""
        self.check_count(updates)
        shares = torch.full((len(updates),), 1 / len(updates), dtype=torch.float64)
        step = self.server_learning_rate * weighted_sum(shares, updates)
        changes = context.sent.get(CONTROL)
        if changes is not None:
            each = torch.full_like(shares, 1 / context.num_clients)
            state = state + weighted_sum(each, changes)
        return AggregationResult(state, step.to(updates.dtype), shares)
