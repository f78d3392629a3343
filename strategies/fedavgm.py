"""Federated averaging with server momentum."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import LinearRule, RoundContext
from fl_sim.core.errors import require, require_above


@final
@dataclass(frozen=True)
class FedAvgM(LinearRule):
    """The weighted mean d of the updates, with momentum on the server.

    v <- beta v + d, and the server moves by eta v.

    Source: Hsu et al. (2019), section 4.3, https://arxiv.org/abs/1909.06335; heavy-ball momentum
    without Nesterov's correction.

    Attributes:
        momentum: Decay of the velocity; beta in the paper.
        server_learning_rate: Factor of the velocity.
    """

    momentum: float = 0.9
    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require_above(self, 0, "server_learning_rate")

    def initial_state(self, num_parameters: int) -> Float[Tensor, " p"]:
        """Return a velocity of zero."""
        return torch.zeros(num_parameters, dtype=torch.float64)

    def coefficients(
        self, weights: Float[Tensor, " n"], context: RoundContext | None = None
    ) -> Float[Tensor, " n"]:
        """Return the weights, scaled to a sum of one."""
        return weights / weights.sum()

    def finish(self, state: Any, total: Float[Tensor, " p"]) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the next velocity and the step along it."""
        velocity = self.momentum * state + total
        return velocity, self.server_learning_rate * velocity
