"""The gap attack: correctly classified records are predicted to be members."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack


@final
@dataclass(frozen=True)
class Gap(MembershipAttack):
    """Score 1 if the target classifies the record correctly, else 0.

    Its AUC is (1 + accuracy on members - accuracy on non-members) / 2, whatever the model's
    confidence. Guessing gives an AUC of 0.5.

    Threat model: any client, who needs only the predicted labels of the global model.

    Source: Yeom et al. (2018), section 3.2, https://arxiv.org/abs/1709.01604.
    """

    label: ClassVar[str] = "gap"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return 1 for correct predictions and 0 for others; NaN without a prediction."""
        assert evidence.correct is not None
        return evidence.correct.double().masked_fill(evidence.target.isnan(), torch.nan)

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if the target's predictions are missing, or an empty string."""
        return "needs the target's answers; got none" if evidence.correct is None else ""
