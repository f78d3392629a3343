"""Average cosine: an update points where a record's gradient would push."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.attacks._shared.trajectories import (
    needs_trajectory,
    require_cosines,
    require_trajectory,
)
from fl_sim.contracts.attacks import Evidence, MembershipAttack, View


@final
@dataclass(frozen=True)
class AverageCosine(MembershipAttack):
    """Score the cosine between the suspected client's update and minus a record's gradient.

    The mean over rounds. Guessing gives an AUC of 0.5. It tells label skew as readily as
    membership: read it on matched outsiders.

    Source: the baseline of Zhu et al. (2024), FedMIA, section 4.1, https://arxiv.org/abs/2402.06289.
    """

    tier: ClassVar[int] = 1
    view: ClassVar[View] = "server"

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"average cosine": cls()}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the mean cosine over rounds."""
        return (
            require_trajectory(evidence).of_suspects(require_cosines(evidence)).double().nanmean(0)
        )

    def missing(self, evidence: Evidence) -> str:
        """Return whether cosines are missing."""
        return needs_trajectory(evidence, cosine=True)
