"""Worker momentum: what a client sends is a running mean of its updates over its rounds."""

from jaxtyping import Float
from torch import Tensor

MEAN_KEY = "worker_momentum"  # name of the running mean in a client's memory


def can_update_mean(update: Float[Tensor, " p"], memory: dict[str, Tensor]) -> bool:
    """Return whether an update can be added to the mean in a memory, which a client may forge."""
    return MEAN_KEY not in memory or memory[MEAN_KEY].shape == update.shape


def update_running_mean(
    beta: float, update: Float[Tensor, " p"], memory: dict[str, Tensor]
) -> Float[Tensor, " p"]:
    """Return m = beta m + (1 - beta) u, and keep it in `memory`; m is zero at first.

    Args:
        beta: how much of the last mean stays, in [0, 1).
        update: u, of the round.
        memory: what the client keeps; changed in place.
    """
    mean = (1 - beta) * update
    if MEAN_KEY in memory:
        mean = mean.add_(memory[MEAN_KEY], alpha=beta)
    memory[MEAN_KEY] = mean
    return mean
