"""Difficulty calibration: the target's margin relative to that of reference models."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack, missing_references


@final
@dataclass(frozen=True)
class CalibratedMargin(MembershipAttack):
    """Score by the margin minus its mean over references that were not trained on the record.

    Needs one OUT reference per record (and one IN with `both`). Guessing gives an AUC of 0.5.

    Threat model: any client, who queries the global model and can train reference models.

    Source: Watson et al. (2022), equation 2, https://arxiv.org/abs/2111.08440, on the margin
    instead of the loss; `both` is the threshold of Sablayrolles et al. (2019), section 4,
    https://arxiv.org/abs/1908.11229.

    Attributes:
        offset: Subtracted from the margin: the mean over `out` references, over `in` references,
            or the midpoint of the two (`both`).
    """

    label: ClassVar[str] = "calibrated margin"
    tier: ClassVar[int] = 1
    calibrated: ClassVar[bool] = True
    offset: Literal["out", "in", "both"] = "out"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the margin above that expected for the record."""
        inside, outside = evidence.inside.nanmean(0), evidence.outside.nanmean(0)
        offsets = {"out": outside, "in": inside, "both": (inside + outside) / 2}
        return evidence.target.double() - offsets[self.offset]

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if references are missing, or an empty string."""
        return missing_references(evidence, int(self.offset != "out"), int(self.offset != "in"))
