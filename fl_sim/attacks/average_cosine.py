"""Average cosine between a client's updates and a record's gradient."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import get_cosines, get_trajectory, missing_trajectory
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View


@final
@dataclass(frozen=True)
class AverageCosine(MembershipAttack):
    """Score by the cosine between the suspected client's update and minus a record's gradient.

    The cosine is averaged over rounds. Guessing gives an AUC of 0.5. It detects label skew as
    readily as membership: read it on matched non-members.

    Threat model: the server, which sees each client's update in every round.

    Source: the baseline of Zhu et al. (2024), FedMIA, section 4.1, https://arxiv.org/abs/2402.06289.
    """

    label: ClassVar[str] = "average cosine"
    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the mean cosine over rounds."""
        return get_trajectory(evidence).of_suspects(get_cosines(evidence)).double().nanmean(0)

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if cosines are missing, or an empty string."""
        return missing_trajectory(evidence, cosine=True)
