"""The loss series: a client's model is sure of its own records, round after round."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import needs_trajectory, require_trajectory
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View, loss


@final
@dataclass(frozen=True)
class LossSeries(MembershipAttack):
    """Score minus the mean loss under the models that the suspected client sent.

    Guessing gives an AUC of 0.5. It tells label skew as readily as membership: read it on matched
    outsiders.

    Source: the baseline of Zhu et al. (2024), FedMIA, section 4.1, https://arxiv.org/abs/2402.06289.
    """

    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"loss series": cls()}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return minus the mean loss over rounds."""
        trajectory = require_trajectory(evidence)
        return -loss(trajectory.of_suspects(trajectory.client_margin)).nanmean(0)

    def missing(self, evidence: Evidence) -> str:
        """Return whether the trajectory is missing."""
        return needs_trajectory(evidence)
