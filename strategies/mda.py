"""Minimum-diameter averaging (MDA)."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.core.distances import squared_distances
from strategies._shared.subsets import SubsetMean, list_subsets

MAX_SUBSETS = 100_000  # about a quarter of a second per round


def find_min_diameter(distances: Float[Tensor, "n n"], num_byzantine: int) -> Int64[Tensor, " m"]:
    """Return the positions of the n - f updates whose largest mutual distance is smallest.

    Several subsets often share the most distant pair. Ties go to the one with the smallest sum of
    squared distances, then to the lower positions.
    """
    subsets = list_subsets(len(distances), num_byzantine)
    diameters = torch.zeros(len(subsets), dtype=distances.dtype)
    totals = torch.zeros_like(diameters)
    for i in range(subsets.shape[1]):
        apart = distances[subsets[:, i, None], subsets[:, i + 1 :]]
        if apart.shape[1]:
            diameters = torch.maximum(diameters, apart.max(1).values)
            totals += apart.sum(1)
    closest = (diameters == diameters.min()).nonzero().squeeze(1)
    return subsets[closest[int(totals[closest].argmin())]]


@final
@dataclass(frozen=True)
class MDA(SubsetMean):
    """The mean of the n - f updates with the smallest diameter: minimum-diameter averaging.

    Unweighted. Tolerates `num_byzantine` = f < n / 2 clients. The search over all n choose f
    subsets is exact, and limits a round to as many clients as have 100,000 subsets.

    Source: El Mhamdi et al. (2020), Genuinely Distributed Byzantine Machine Learning, section 3,
    https://arxiv.org/abs/1905.03853, after Rousseeuw (1985).

    Attributes:
        num_byzantine: Number of attackers to tolerate; as many updates are left out.
    """

    max_subsets: ClassVar[int] = MAX_SUBSETS

    num_byzantine: int = 1

    def choose(self, updates: Float[Tensor, "n p"]) -> Int64[Tensor, " m"]:
        """Return the positions of the subset with the smallest diameter."""
        return find_min_diameter(squared_distances(updates), self.num_byzantine)
