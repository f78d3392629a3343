"""Attack-P: thresholds calibrated on a population of non-members."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack, missing_population


@final
@dataclass(frozen=True)
class AttackP(MembershipAttack):
    """Score by the share of a population on which the target is less confident.

    Ranks records as the loss threshold does, but on a scale from which the false positive rate
    can be read; its resolution is 1 / population. Guessing gives an AUC of 0.5.

    Threat model: any client, who queries the global model and holds a population of non-members.

    Source: Ye et al. (2022), section 4, https://arxiv.org/abs/2111.09679.
    """

    label: ClassVar[str] = "population"

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the rank of each record in the population, from 0 to 1."""
        ordered = evidence.population[~evidence.population.isnan()].sort().values
        rank = torch.searchsorted(ordered, evidence.target.contiguous()).double() / len(ordered)
        return rank.masked_fill(evidence.target.isnan(), torch.nan)

    def missing(self, evidence: Evidence) -> str:
        """Return the reason if the population is empty, or an empty string."""
        return missing_population(evidence)
