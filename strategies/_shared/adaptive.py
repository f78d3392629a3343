"""The common server step of FedAdagrad, FedAdam and FedYogi."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import LinearRule, RoundContext
from fl_sim.core.errors import require, require_above


@dataclass(frozen=True)
class AdaptiveRule(LinearRule):
    """A server step divided, per coordinate, by the root of a second moment.

    With the weighted mean update d: m = beta_1 m + (1 - beta_1) d, the step is eta m / (sqrt(v) +
    tau), and v starts at tau^2 (Reddi et al. 2021, algorithm 2). No bias is corrected.
    """

    server_learning_rate: float
    momentum: float
    adaptivity: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "server_learning_rate")
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require_above(self, 0, "adaptivity")

    @abstractmethod
    def update_second_moment(
        self, last: Float[Tensor, " p"], square: Float[Tensor, " p"]
    ) -> Float[Tensor, " p"]:
        """Return the next second moment v, from the last one and the squared mean update."""

    def initial_state(self, num_parameters: int) -> dict[str, Tensor]:
        """Return a first moment of zero and a second moment of `adaptivity` squared."""
        first = torch.zeros(num_parameters, dtype=torch.float64)
        return {"first": first, "second": torch.full_like(first, self.adaptivity**2)}

    def coefficients(
        self, weights: Float[Tensor, " n"], context: RoundContext | None = None
    ) -> Float[Tensor, " n"]:
        """Return the weights, scaled to a sum of one."""
        return weights / weights.sum()

    def finish(self, state: Any, total: Float[Tensor, " p"]) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the next moments and the step that they give."""
        first = self.momentum * state["first"] + (1 - self.momentum) * total
        second = self.update_second_moment(state["second"], total.square())
        step = self.server_learning_rate * first / (second.sqrt() + self.adaptivity)
        return {"first": first, "second": second}, step
