"""Delta loss: how much a client's training lowers the loss of a record."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import needs_trajectory, require_trajectory
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View, loss


@final
@dataclass(frozen=True)
class DeltaLoss(MembershipAttack):
    """Score the loss under the model that was sent out minus that under the client's answer.

    The mean over rounds. Guessing gives an AUC of 0.5. It tells label skew as readily as
    membership: read it on matched outsiders.

    Source: the score difference of Jagielski et al. (2023), section 4,
    https://arxiv.org/abs/2205.06369, with a client's local training as the update.
    """

    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"delta loss": cls()}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the mean drop of the loss over rounds."""
        trajectory = require_trajectory(evidence)
        after = loss(trajectory.of_suspects(trajectory.client_margin))
        return (loss(trajectory.global_margin) - after).nanmean(0)

    def missing(self, evidence: Evidence) -> str:
        """Return whether the trajectory is missing."""
        return needs_trajectory(evidence)
