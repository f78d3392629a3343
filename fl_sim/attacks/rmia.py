"""RMIA: membership inference by likelihood ratios relative to a population."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import (
    Evidence,
    MembershipAttack,
    confidence,
    missing_population,
    missing_references,
)
from fl_sim.core.errors import require, require_above


@final
@dataclass(frozen=True)
class Rmia(MembershipAttack):
    """Score by the share of a population whose likelihood ratio the record exceeds `gamma` times.

    The ratio is p(x) / P(x): the confidence under the target over the mean confidence of models
    in general. Online, P is the mean of the IN and the OUT average. Offline it is estimated from
    OUT references as ((1 + a) P_out + 1 - a) / 2, for records and population alike. The
    resolution is 1 / population, with many ties at 1: `resolved=True` breaks them by the ratio
    itself, which keeps the order of different scores. Guessing gives an AUC of 0.5.

    Threat model: any client, who queries the global model, holds a population of non-members and
    can train a few reference models.

    Source: Zarifzadeh et al. (2024), equations 3 to 5 and appendix B.2.2,
    https://arxiv.org/abs/2312.03262.

    Attributes:
        references: `online` needs one IN and one OUT reference per record, `offline` one OUT.
        a: Offset of the offline estimate, from 0 to 1; 1 uses the OUT mean as it is. An audit
            tunes it on reference models, never on the target.
        gamma: Factor by which the ratio must exceed the population's.
        resolved: Whether ties are broken by the ratio.
    """

    tier: ClassVar[int] = 1
    calibrated: ClassVar[bool] = True
    references: Literal["online", "offline"] = "online"
    a: float = 0.3
    gamma: float = 1.0
    resolved: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.a <= 1, "a", "between 0 and 1", self.a)
        require_above(self, 0, "gamma")

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the variants that an audit runs, by name."""
        return {"RMIA online": cls("online"), "RMIA offline": cls("offline")}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the share of the population with a smaller ratio, from 0 to 1."""
        ratio = confidence(evidence.target) / self._mean_confidence(evidence)
        references = confidence(evidence.reference_population)
        mean = references.nanmean(0) if bool(references.isnan().any()) else references.mean(0)
        if self.references == "offline":
            mean = self._estimate_mean(mean)
        thresholds = self.gamma * confidence(evidence.population) / mean
        thresholds = thresholds[~thresholds.isnan()]
        # The share of z with ratio / ratio_z > gamma, by binary search instead of a table.
        share = torch.searchsorted(thresholds.sort().values, ratio).double() / len(thresholds)
        share[ratio.isnan()] = torch.nan
        # Smaller than one step of the share, so that it only orders records with equal shares.
        tie_break = torch.where(ratio.isinf(), 1.0, ratio / (1 + ratio)) / (len(thresholds) + 1)
        return share + tie_break if self.resolved else share

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if the population or references are missing, or an empty string."""
        references = missing_references(evidence, int(self.references == "online"), 1)
        return missing_population(evidence) or references

    def _mean_confidence(self, evidence: Evidence) -> Float[Tensor, " n"]:
        values = confidence(evidence.references)
        out = values.masked_fill(evidence.reference_members, torch.nan).nanmean(0)
        if self.references == "offline":
            return self._estimate_mean(out)
        return (values.masked_fill(~evidence.reference_members, torch.nan).nanmean(0) + out) / 2

    def _estimate_mean(self, out: Float[Tensor, " s"]) -> Float[Tensor, " s"]:
        return ((1 + self.a) * out + 1 - self.a) / 2
