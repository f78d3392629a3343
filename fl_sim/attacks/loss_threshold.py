"""The loss threshold: members have a lower loss."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack, loss


@final
@dataclass(frozen=True)
class LossThreshold(MembershipAttack):
    """Score minus the loss under the target.

    A threshold of its own for each model: scores of two models do not compare. Guessing gives an
    AUC of 0.5.

    Source: Yeom et al. (2018), https://arxiv.org/abs/1709.01604.
    """

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"loss": cls()}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return minus the loss."""
        return -loss(evidence.target)
