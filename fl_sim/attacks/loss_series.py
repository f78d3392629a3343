"""The loss series: the mean loss of a record over a client's models of all rounds."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import get_trajectory, missing_trajectory
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View, loss


@final
@dataclass(frozen=True)
class LossSeries(MembershipAttack):
    """Score by minus the mean loss under the models that the suspected client sent.

    Guessing gives an AUC of 0.5. It detects label skew as readily as membership: read it on
    matched non-members.

    Threat model: the server, which sees each client's update in every round.

    Source: the baseline of Zhu et al. (2024), FedMIA, section 4.1, https://arxiv.org/abs/2402.06289.
    """

    label: ClassVar[str] = "loss series"
    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return minus the mean loss over rounds."""
        trajectory = get_trajectory(evidence)
        return -loss(trajectory.of_suspects(trajectory.client_margin)).nanmean(0)

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if the trajectory is missing, or an empty string."""
        return missing_trajectory(evidence)
