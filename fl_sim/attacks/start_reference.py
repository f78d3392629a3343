"""The start as reference: the gain of a record over the model that training started from."""

from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack, loss


@final
@dataclass(frozen=True)
class StartReference(MembershipAttack):
    """Score by the margin under the target minus that under the model that training started from.

    A start that already tells the classes apart states how hard a record is, so that the rest is
    the effect of training on it. A start with a new, random head says nothing about the classes:
    then its margin is noise that is subtracted, and the plain attacks are better. An audit reports
    the accuracy of the start, `start_accuracy`, beside. Guessing gives an AUC of 0.5.

    Threat model: any client, who has received the first and the last global model; no reference
    model is trained.

    Source: the pretrained model as a reference, Ran et al. (2025), LoRA-Leak,
    https://arxiv.org/abs/2507.18302, which is the calibration by difficulty of Watson et al.
    (2022), equation 2, https://arxiv.org/abs/2111.08440, with the start as its only reference.

    Attributes:
        signal: `margin`, or `loss`: the drop of the loss since the start.
    """

    signal: Literal["margin", "loss"] = "margin"

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the variants that an audit runs, by name."""
        return {"margin over start": cls("margin"), "loss since start": cls("loss")}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the gain of each record over the start."""
        assert evidence.start is not None  # `missing` has checked it
        if self.signal == "margin":
            return evidence.target.double() - evidence.start.double()
        return loss(evidence.start) - loss(evidence.target)

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if the start's margins are missing, or an empty string."""
        return "needs the model at the start; got none" if evidence.start is None else ""
