"""Divide and conquer (DnC): spectral outlier removal on random coordinates."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext, Updates, Weights
from fl_sim.core.distances import gram_matrix
from fl_sim.core.errors import require_above, require_at_least
from fl_sim.core.seeding import generator
from strategies._shared.byzantine import ByzantineRule, average


@final
@dataclass(frozen=True)
class DnC(ByzantineRule):
    """The mean of the updates that no spectral test on random coordinates rejects.

    Each iteration centres the updates on a random subset of the coordinates and rejects the c f
    updates with the largest projections on the first right singular vector. The mean is over the
    updates that survive all iterations. Unweighted. Tolerates `num_byzantine` = f < n / 2 clients.

    Source: Shejwalkar and Houmansadr (2021), algorithm 2, https://doi.org/10.14722/ndss.2021.24498.
    Subsets depend on the run's seed and the round.

    Attributes:
        num_byzantine: Number of attackers to tolerate.
        num_iterations: Number of iterations; an update that one of them rejects is left out.
        num_coordinates: Number of coordinates per iteration, all of a smaller model; b in the
            paper.
        filter_factor: Number of updates rejected per iteration, as a multiple of f; c in the paper.
    """

    num_byzantine: int = 1
    num_iterations: int = 5
    num_coordinates: int = 10_000
    filter_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "num_iterations", "num_coordinates")
        require_above(self, 0, "filter_factor")

    @property
    def min_updates(self) -> int:
        """2 f + 1, and more than all iterations together may reject."""
        rejected = self.num_iterations * self._rejected
        return max(2 * self.num_byzantine, rejected) + 1

    @property
    def _rejected(self) -> int:
        return int(self.filter_factor * self.num_byzantine)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean of the updates that every iteration accepts."""
        self.check_count(updates)
        size = updates.shape[1]
        passed = torch.ones(len(updates), dtype=torch.bool)
        for look in range(self.num_iterations):
            rng = generator(context.seed, "dnc", context.round, look)
            sampled = torch.randperm(size, generator=rng)[: self.num_coordinates].sort().values
            passed &= self._select_inliers(updates if len(sampled) == size else updates[:, sampled])
        return average(state, updates, passed.nonzero().squeeze(1))

    def _select_inliers(self, sampled: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
        """Return a mask of the updates that are not farthest along the first singular vector.

        The vector itself is not needed: the first eigenvector of the inner products holds the
        projections of the updates on it, up to a common factor.
        """
        first = torch.linalg.eigh(gram_matrix(sampled)).eigenvectors[:, -1]
        ranking = first.square().argsort(stable=True)
        passed = torch.zeros(len(sampled), dtype=torch.bool)
        passed[ranking[: len(sampled) - self._rejected]] = True
        return passed
