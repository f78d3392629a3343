"""Attack-P: a threshold that a population sets."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts.attacks import Evidence, MembershipAttack, missing_population


@final
@dataclass(frozen=True)
class AttackP(MembershipAttack):
    """Score the share of a population that the target is less sure about.

    It ranks as the loss threshold does, with a score that says what false alarm rate to expect:
    the resolution is 1 / population. Guessing gives an AUC of 0.5.

    Source: Ye et al. (2022), section 4, https://arxiv.org/abs/2111.09679.
    """

    @classmethod
    def variants(cls) -> dict[str, MembershipAttack]:
        """Return the forms that an audit tries."""
        return {"population": cls()}

    def scores(self, evidence: Evidence) -> Float[Tensor, " n"]:
        """Return the rank among the population, from 0 to 1."""
        ordered = evidence.population[~evidence.population.isnan()].sort().values
        rank = torch.searchsorted(ordered, evidence.target.contiguous()).double() / len(ordered)
        return rank.masked_fill(evidence.target.isnan(), torch.nan)

    def missing(self, evidence: Evidence) -> str:
        """Return whether the population is empty."""
        return missing_population(evidence)
