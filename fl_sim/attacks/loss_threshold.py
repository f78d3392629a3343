"""The loss threshold attack: records with a low loss are predicted to be members."""

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack, loss


@final
@dataclass(frozen=True)
class LossThreshold(MembershipAttack):
    """Score by minus the loss under the target.

    Each model needs its own threshold: scores of two models are not comparable. Guessing gives an
    AUC of 0.5.

    Threat model: any client, who queries the global model.

    Source: Yeom et al. (2018), https://arxiv.org/abs/1709.01604.
    """

    label: ClassVar[str] = "loss"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return minus the loss of each record."""
        return -loss(evidence.target)
