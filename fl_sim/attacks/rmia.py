"""RMIA: the record's likelihood ratio against that of a population."""

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
from fl_sim.core import serialization
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class Rmia(MembershipAttack):
    """Score the share of a population that the record's likelihood ratio exceeds by `gamma`.

    The ratio is p(x) / P(x): confidence under the target over the mean over models in general.
    Online, P averages IN and OUT references half and half. Offline it is guessed from OUT
    references as ((1 + a) P_out + 1 - a) / 2, for record and population alike. The resolution is
    1 / population, and ties pile up at 1: `resolved=True` breaks them by the ratio itself, which
    changes no order between different scores. Guessing gives an AUC of 0.5.

    Source: Zarifzadeh et al. (2024), equations 3 to 5 and appendix B.2.2,
    https://arxiv.org/abs/2312.03262.

    Attributes:
        references: `online` needs an IN and an OUT reference a record, `offline` an OUT one.
        a: how far a member lifts the confidence offline; 1 trusts the OUT mean alone. An
            audit tunes it on reference models, never on the target.
        gamma: factor by which the ratio must exceed the population's.
        resolved: break ties by the ratio.
    """

    tier: ClassVar[int] = 1
    calibrated: ClassVar[bool] = True
    references: Literal["online", "offline"] = "online"
    a: float = 0.3
    gamma: float = 1.0
    resolved: bool = True

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(0 <= self.a <= 1, "a", "between 0 and 1", self.a)
        require(self.gamma > 0, "gamma", "above 0", self.gamma)

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"RMIA online": cls("online"), "RMIA offline": cls("offline")}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the share of the population that is beaten, from 0 to 1."""
        ratio = confidence(evidence.target) / self._mean_confidence(evidence)
        general = confidence(evidence.reference_population)
        population = general.nanmean(0) if bool(general.isnan().any()) else general.mean(0)
        if self.references == "offline":
            population = self._estimate_mean(population)
        beaten = self.gamma * confidence(evidence.population) / population
        beaten = beaten[~beaten.isnan()]
        # The share of z with ratio / ratio_z > gamma, by binary search instead of a table.
        share = torch.searchsorted(beaten.sort().values, ratio).double() / len(beaten)
        share[ratio.isnan()] = torch.nan
        # A ratio is below 1 / P; its own order fits between two steps of the share.
        within = torch.where(ratio.isinf(), 1.0, ratio / (1 + ratio)) / (len(beaten) + 1)
        return share + within if self.resolved else share

    def missing(self, evidence: Evidence) -> str:
        """Return whether the population or references are missing."""
        references = missing_references(evidence, int(self.references == "online"), 1)
        return missing_population(evidence) or references

    def _mean_confidence(self, evidence: Evidence) -> Float[Tensor, " n"]:
        sure = confidence(evidence.references)
        out = sure.masked_fill(evidence.reference_members, torch.nan).nanmean(0)
        if self.references == "offline":
            return self._estimate_mean(out)
        return (sure.masked_fill(~evidence.reference_members, torch.nan).nanmean(0) + out) / 2

    def _estimate_mean(self, out: Float[Tensor, " s"]) -> Float[Tensor, " s"]:
        return ((1 + self.a) * out + 1 - self.a) / 2
