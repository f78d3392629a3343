"""FedNova: normalised averaging of clients that take different numbers of steps."""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import LinearRule, RoundContext
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class FedNova(LinearRule):
    """The mean of the updates, each normalised by its number of effective local steps.

    FedAvg leans towards clients that take many steps, those with large shards. Here the direction
    is the weighted mean of u_i / |a_i|_1, and its length that of the mean |a_i|_1. If all clients
    take equally many steps this is FedAvg.

    Source: Wang et al. (2020), equations 5 to 8, https://arxiv.org/abs/2007.07481. The effective
    steps |a_i|_1 are the number of steps for plain SGD, and more with local momentum.

    Attributes:
        momentum: Momentum of the clients' optimiser, which restarts each round; rho in the paper.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)

    def coefficients(
        self, weights: Float[Tensor, " n"], context: RoundContext | None = None
    ) -> Float[Tensor, " n"]:
        """Return each client's share of the examples times mean over own effective steps."""
        shares = weights / weights.sum()
        if context is None:
            return shares
        effective = compute_effective_steps(context.local_steps.double(), self.momentum)
        return shares * (shares @ effective) / effective

    def finish(self, state: Any, total: Float[Tensor, " p"]) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the sum as it is; there is no state."""
        return state, total


def compute_effective_steps(steps: Float[Tensor, " n"], momentum: float) -> Float[Tensor, " n"]:
    """Return |a|_1, the weight of all gradients in an update of K steps with momentum.

    The gradient of step i of K has weight (1 - rho^(K - i)) / (1 - rho).

    >>> import torch
    >>> compute_effective_steps(torch.tensor([1.0, 2.0, 3.0]), 0.5)
    tensor([1.0000, 2.5000, 4.2500])
    """
    left = 1 - momentum
    return (steps - momentum * (1 - momentum**steps) / left) / left
