"""Access to the trajectory, for attacks of a server that sees every client's update."""

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, Trajectory


def get_trajectory(evidence: Evidence) -> Trajectory:
    """Return the trajectory; `missing_trajectory` has checked that there is one."""
    assert evidence.trajectory is not None
    return evidence.trajectory


def get_cosines(evidence: Evidence) -> Float[Tensor, "r k n"]:
    """Return the cosines; `missing_trajectory` has checked that there are some."""
    cosine = get_trajectory(evidence).cosine
    assert cosine is not None
    return cosine


def missing_trajectory(evidence: Evidence, cosine: bool = False, clients: int = 1) -> str:
    """Return the part of a trajectory that the evidence lacks, or an empty string."""
    trajectory = evidence.trajectory
    if trajectory is None:
        return "needs the updates of each client; got none"
    if cosine and trajectory.cosine is None:
        return "needs cosines of updates with gradients; got none"
    count = trajectory.client_margin.shape[1]
    return "" if count >= clients else f"needs {clients} clients; got {count}"
