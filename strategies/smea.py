"""Smallest maximum eigenvalue averaging (SMEA): the mean of the n - f updates that vary least."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.core.distances import centred_gram_matrix
from strategies._shared.subsets import SubsetMean, list_subsets

MAX_SUBSETS = 20_000  # of which all are looked at: about a second a round
AT_ONCE = 4096


def find_min_eigenvalue(products: Float[Tensor, "n n"], num_byzantine: int) -> Int64[Tensor, " m"]:
    """Return the n - f positions whose covariance has the smallest largest eigenvalue.

    The largest eigenvalue of a covariance is that of the centred inner products over their
    number. Ties go to the lower positions.
    """
    subsets, eigenvalues = list_subsets(len(products), num_byzantine), []
    for batch in subsets.split(AT_ONCE):
        part = products[batch[:, :, None], batch[:, None, :]]
        rows = part.mean(2, keepdim=True)
        centred = part - rows - rows.mT + rows.mean(1, keepdim=True)
        eigenvalues.append(torch.linalg.eigvalsh(centred)[:, -1])
    return subsets[int(torch.cat(eigenvalues).argmin())]


@final
@dataclass(frozen=True)
class SMEA(SubsetMean):
    """The mean of the n - f updates whose covariance has the smallest largest eigenvalue.

    Unweighted. Withstands `num_byzantine` = f clients, fewer than half. The search is exact, over
    all n choose f subsets, so a round can have no more clients than give 20,000 of them.

    Source: Allouah et al. (2023), On the Privacy-Robustness-Utility Trilemma in Distributed
    Learning, section 5, https://arxiv.org/abs/2302.04787. ByzFL takes one step of the power
    method for each eigenvalue, from a random start; here they are exact.

    Attributes:
        num_byzantine: attackers to survive; as many updates are left out.
    """

    max_subsets: ClassVar[int] = MAX_SUBSETS

    num_byzantine: int = 1

    def choose(self, updates: Float[Tensor, "n p"]) -> Int64[Tensor, " m"]:
        """Return those that vary least."""
        return find_min_eigenvalue(centred_gram_matrix(updates), self.num_byzantine)
