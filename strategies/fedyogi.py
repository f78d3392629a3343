"""Yogi on the server."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from fl_sim.core.errors import require
from strategies._shared.adaptive import AdaptiveRule


@final
@dataclass(frozen=True)
class FedYogi(AdaptiveRule):
    """Server steps divided by a second moment that changes at a bounded rate.

    v <- v - (1 - beta_2) d^2 sign(v - d^2), step eta m / (sqrt(v) + tau). Tolerates no attacker: it
    uses the weighted mean d.

    Source: Reddi et al. (2021), algorithm 2, https://arxiv.org/abs/2003.00295. The second moment
    starts at `adaptivity` squared, the smallest value that the paper allows; Flower's FedYogi
    starts at zero. Default values are Flower's.

    Attributes:
        server_learning_rate: Factor of the step; eta in the paper.
        momentum: Decay of the first moment; beta_1 in the paper.
        decay: Decay of the second moment; beta_2 in the paper.
        adaptivity: Constant added to the root of the second moment; tau in the paper.
    """

    server_learning_rate: float = 0.01
    momentum: float = 0.9
    adaptivity: float = 1e-3
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.decay < 1, "decay", "in [0, 1)", self.decay)

    def update_second_moment(
        self, last: Float[Tensor, " p"], square: Float[Tensor, " p"]
    ) -> Float[Tensor, " p"]:
        """Return the last moment, moved towards the square by a share of the square."""
        return last - (1 - self.decay) * square * (last - square).sign()
