"""Federated averaging."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import LinearRule, RoundContext
from fl_sim.core import serialization
from fl_sim.core.errors import require_above


@final
@dataclass(frozen=True)
class FedAvg(LinearRule):
    """The mean of the updates, weighted by the size of each client's shard.

    Source: McMahan et al. (2017), algorithm 1, https://arxiv.org/abs/1602.05629.

    Attributes:
        server_learning_rate: Factor of the mean.
        weighted: Whether clients are weighted by their examples; False gives equal weights, as in
            ByzFL.
    """

    server_learning_rate: float = 1.0
    weighted: bool = serialization.omit_if_default(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "server_learning_rate")

    def coefficients(
        self, weights: Float[Tensor, " n"], context: RoundContext | None = None
    ) -> Float[Tensor, " n"]:
        """Return the weights, or ones, scaled to a sum of one."""
        counted = weights if self.weighted else torch.ones_like(weights)
        return counted / counted.sum()

    def finish(self, state: Any, total: Float[Tensor, " p"]) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the scaled mean; there is no state."""
        return state, self.server_learning_rate * total
