"""The gap attack: whatever the model gets right was trained on."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack


@final
@dataclass(frozen=True)
class Gap(MembershipAttack):
    """Score 1 where the target is right, and 0 where it is wrong.

    Its AUC is half of one plus the difference of accuracy between members and outsiders, whatever
    the model's confidence. Guessing gives 0.5.

    Source: Yeom et al. (2018), section 3.2, https://arxiv.org/abs/1709.01604.
    """

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"gap": cls()}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return whether the target is right; NaN where it gives no answer."""
        assert evidence.correct is not None
        return evidence.correct.double().masked_fill(evidence.target.isnan(), torch.nan)

    def missing(self, evidence: Evidence) -> str:
        """Return whether the target's answers are missing."""
        return "needs the target's answers; got none" if evidence.correct is None else ""
