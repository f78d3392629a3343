"""FedNova: normalised averaging of clients that take different numbers of steps."""

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import LinearRule, RoundContext
from fl_sim.core import serialization
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class FedNova(LinearRule):
    """The mean of the updates, each divided by how far its local steps could carry it.

    FedAvg leans towards clients that take many steps, those with large shards. Here the
    direction is the weighted mean of normalised updates, and its length that of the mean number
    of effective steps. Clients that take equally many steps get FedAvg.

    Source: Wang et al. (2020), equations 5 to 8, https://arxiv.org/abs/2007.07481. Effective
    steps are the one-norm of the vector a of the paper: the number of steps for plain SGD, more
    with local momentum.

    Attributes:
        momentum: of the clients' optimiser, which starts afresh each round; rho of the paper.
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)

    def coefficients(
        self, weights: Float[Tensor, " n"], context: RoundContext | None = None
    ) -> Float[Tensor, " n"]:
        """Return each client's share of the examples, times mean over own effective steps."""
        shares = weights / weights.sum()
        if context is None:
            return shares
        effective = compute_effective_steps(context.local_steps.double(), self.momentum)
        return shares * (shares @ effective) / effective

    def finish(self, state: Any, total: Float[Tensor, " p"]) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the sum as it is; there is no state."""
        return state, total


def compute_effective_steps(steps: Float[Tensor, " n"], momentum: float) -> Float[Tensor, " n"]:
    """Return how many gradients' worth of movement this many steps with momentum make.

    The gradient of step i of K counts (1 - rho^(K - i)) / (1 - rho) times in the end.

    >>> import torch
    >>> compute_effective_steps(torch.tensor([1.0, 2.0, 3.0]), 0.5)
    tensor([1.0000, 2.5000, 4.2500])
    """
    left = 1 - momentum
    return (steps - momentum * (1 - momentum**steps) / left) / left
