"""Adagrad on the server."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from strategies._shared.adaptive import AdaptiveRule


@final
@dataclass(frozen=True)
class FedAdagrad(AdaptiveRule):
    """Server steps that shrink with the sum of all squared mean updates.

    v <- v + d^2, step eta m / (sqrt(v) + tau). Tolerates no attacker: it uses the weighted mean d.

    Source: Reddi et al. (2021), algorithm 2, https://arxiv.org/abs/2003.00295. The second moment
    starts at `adaptivity` squared, the smallest value that the paper allows; Flower's FedAdagrad
    starts at zero. Default values are Flower's.

    Attributes:
        server_learning_rate: Factor of the step; eta in the paper.
        momentum: Decay of the first moment; beta_1 in the paper.
        adaptivity: Constant added to the root of the second moment; tau in the paper.
    """

    server_learning_rate: float = 0.1
    momentum: float = 0.0
    adaptivity: float = 1e-3

    def update_second_moment(
        self, last: Float[Tensor, " p"], square: Float[Tensor, " p"]
    ) -> Float[Tensor, " p"]:
        """Return the sum."""
        return last + square
