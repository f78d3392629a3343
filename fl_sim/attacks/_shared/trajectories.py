"""What attacks on the course of a federation share."""

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, Trajectory


def require_trajectory(evidence: Evidence) -> Trajectory:
    """Return the trajectory, which `needs_trajectory` has found to be there."""
    assert evidence.trajectory is not None
    return evidence.trajectory


def require_cosines(evidence: Evidence) -> Float[Tensor, "r k n"]:
    """Return the cosines, which `needs_trajectory` has found to be there."""
    cosine = require_trajectory(evidence).cosine
    assert cosine is not None
    return cosine


def needs_trajectory(evidence: Evidence, cosine: bool = False, clients: int = 1) -> str:
    """Return what the evidence lacks of a trajectory, or nothing."""
    trajectory = evidence.trajectory
    if trajectory is None:
        return "needs the updates of each client; got none"
    if cosine and trajectory.cosine is None:
        return "needs cosines of updates with gradients; got none"
    count = trajectory.client_margin.shape[1]
    return "" if count >= clients else f"needs {clients} clients; got {count}"
