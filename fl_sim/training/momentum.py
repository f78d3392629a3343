"""Worker momentum: a client sends the running mean of its updates over its rounds."""

from jaxtyping import Float
from torch import Tensor

MEAN_KEY = "worker_momentum"  # name of the running mean in a client's state


def can_update_mean(update: Float[Tensor, " p"], state: dict[str, Tensor]) -> bool:
    """Return whether an update has the shape of the mean in a state, which may be forged."""
    return MEAN_KEY not in state or state[MEAN_KEY].shape == update.shape


def update_running_mean(
    beta: float, update: Float[Tensor, " p"], state: dict[str, Tensor]
) -> Float[Tensor, " p"]:
    """Return m = beta m + (1 - beta) u, and store it in `state`; m is zero at first.

    Args:
        beta: Weight of the previous mean, in [0, 1).
        update: The update u of the round.
        state: What the client keeps between rounds; changed in place.
    """
    mean = (1 - beta) * update
    if MEAN_KEY in state:
        mean = mean.add_(state[MEAN_KEY], alpha=beta)
    state[MEAN_KEY] = mean
    return mean
