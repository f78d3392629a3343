"""Adam on the server."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from fl_sim.core.errors import require
from strategies._shared.adaptive import AdaptiveRule


@final
@dataclass(frozen=True)
class FedAdam(AdaptiveRule):
    """Server steps divided by the root of a moving average of squared mean updates.

    v <- beta_2 v + (1 - beta_2) d^2, step eta m / (sqrt(v) + tau). Tolerates no attacker: it uses
    the weighted mean d.

    Source: Reddi et al. (2021), algorithm 2, https://arxiv.org/abs/2003.00295. Flower's FedAdam is
    another rule: its second moment starts at zero and it corrects Adam's bias, with an exponent of
    two in the first round. Default values are Flower's.

    Attributes:
        server_learning_rate: Factor of the step; eta in the paper.
        momentum: Decay of the first moment; beta_1 in the paper.
        decay: Decay of the second moment; beta_2 in the paper.
        adaptivity: Constant added to the root of the second moment; tau in the paper.
    """

    server_learning_rate: float = 0.1
    momentum: float = 0.9
    adaptivity: float = 1e-3
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.decay < 1, "decay", "in [0, 1)", self.decay)

    def update_second_moment(
        self, last: Float[Tensor, " p"], square: Float[Tensor, " p"]
    ) -> Float[Tensor, " p"]:
        """Return the moving average."""
        return self.decay * last + (1 - self.decay) * square
