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

    Withstands no attacker: it rests on the weighted mean.

    Source: Reddi et al. (2021), algorithm 2, https://arxiv.org/abs/2003.00295. The second
    moment starts at `adaptivity` squared, the least that the paper allows; Flower's FedAdagrad
    starts at zero. Default values are Flower's.

    Attributes:
        server_learning_rate: factor of the step; eta of the paper.
        momentum: share of the first moment that is kept; beta 1 of the paper.
        adaptivity: added to the root of the second moment; tau of the paper.
    """

    server_learning_rate: float = 0.1
    momentum: float = 0.0
    adaptivity: float = 1e-3

    def update_second_moment(
        self, last: Float[Tensor, " p"], square: Float[Tensor, " p"]
    ) -> Float[Tensor, " p"]:
        """Return the sum."""
        return last + square
