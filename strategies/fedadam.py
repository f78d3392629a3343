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

    Withstands no attacker: it rests on the weighted mean.

    Source: Reddi et al. (2021), algorithm 2, https://arxiv.org/abs/2003.00295. Flower's FedAdam
    is another rule: its second moment starts at zero and it corrects Adam's bias, with an
    exponent of two in the first round. Default values are Flower's.

    Attributes:
        server_learning_rate: factor of the step; eta of the paper.
        momentum: share of the first moment that is kept; beta 1 of the paper.
        decay: share of the second moment that is kept; beta 2 of the paper.
        adaptivity: added to the root of the second moment; tau of the paper.
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
