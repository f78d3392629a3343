"""SCAFFOLD, the server's half: averaging with control variates."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.sums import weighted_sum

CONTROL = "control"  # name of the vector that goes both ways; clients/scaffold.py has it too


@final
@dataclass(frozen=True)
class SCAFFOLD(InformedRule):
    """The unweighted mean of the updates; clients correct their drift by a control variate.

    Needs `clients.scaffold.ScaffoldClient`, which sends the change of its own control variate
    beside its update and is told the server's. Of clients that send none it is a plain mean.
    Withstands no attacker.

    Source: Karimireddy et al. (2020), algorithm 1, https://arxiv.org/abs/1910.06378. The
    server's control variate moves by the sum of the changes over the number of all clients.

    Attributes:
        server_learning_rate: factor of the mean; eta g of the paper.
    """

    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        serialization.check_types(self)
        rate = self.server_learning_rate
        require(rate > 0, "server_learning_rate", "above 0", rate)

    def initial_state(self, num_parameters: int) -> Float[Tensor, " p"]:
        """Return a control variate of zero."""
        return torch.zeros(num_parameters, dtype=torch.float64)

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return the server's control variate."""
        return {CONTROL: state.float()}

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the scaled mean, and the next control variate."""
        self.check_count(updates)
        shares = torch.full((len(updates),), 1 / len(updates), dtype=torch.float64)
        step = self.server_learning_rate * weighted_sum(shares, updates)
        changes = context.sent.get(CONTROL)
        if changes is not None:
            each = torch.full_like(shares, 1 / context.num_clients)
            state = state + weighted_sum(each, changes)
        return AggregationResult(state, step.to(updates.dtype), shares)
