"""Smallest maximum eigenvalue averaging (SMEA)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.core.distances import centred_gram_matrix
from strategies._shared.subsets import SubsetMean, list_subsets

MAX_SUBSETS = 20_000  # about a second per round
AT_ONCE = 4096


def find_min_eigenvalue(products: Float[Tensor, "n n"], num_byzantine: int) -> Int64[Tensor, " m"]:
    """Return the n - f positions whose covariance has the smallest largest eigenvalue.

    The largest eigenvalue of a covariance is that of the centred inner products over their number.
    Ties go to the lower positions.
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

    Unweighted. Tolerates `num_byzantine` = f < n / 2 clients. The search over all n choose f
    subsets is exact, and limits a round to as many clients as have 20,000 subsets.

    Source: Allouah et al. (2023), On the Privacy-Robustness-Utility Trilemma in Distributed
    Learning, section 5, https://arxiv.org/abs/2302.04787. ByzFL takes one power iteration per
    eigenvalue from a random start; here eigenvalues are exact.

    Attributes:
        num_byzantine: Number of attackers to tolerate; as many updates are left out.
    """

    max_subsets: ClassVar[int] = MAX_SUBSETS

    num_byzantine: int = 1

    def choose(self, updates: Float[Tensor, "n p"]) -> Int64[Tensor, " m"]:
        """Return the positions of the subset with the smallest variance in its worst direction."""
        return find_min_eigenvalue(centred_gram_matrix(updates), self.num_byzantine)
