"""Delta loss: the drop of a record's loss over a client's local training."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import get_trajectory, missing_trajectory
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View, loss


@final
@dataclass(frozen=True)
class DeltaLoss(MembershipAttack):
    """Score by the loss under the model that was sent out minus that under the client's reply.

    The drop is averaged over rounds. Guessing gives an AUC of 0.5. It detects label skew as
    readily as membership: read it on matched non-members.

    Threat model: the server, which sees each client's update in every round.

    Source: the score difference of Jagielski et al. (2023), section 4,
    https://arxiv.org/abs/2205.06369, with a client's local training as the update.
    """

    label: ClassVar[str] = "delta loss"
    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the mean drop of the loss over rounds."""
        trajectory = get_trajectory(evidence)
        after = loss(trajectory.of_suspects(trajectory.client_margin))
        return (loss(trajectory.global_margin) - after).nanmean(0)

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if the trajectory is missing, or an empty string."""
        return missing_trajectory(evidence)
