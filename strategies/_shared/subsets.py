"""Exhaustive search over the subsets of n - f updates."""

from abc import ABC, abstractmethod
from itertools import combinations
from math import comb
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import AggregationResult, RoundContext, Updates, Weights
from fl_sim.core.device import cache_tensors
from strategies._shared.byzantine import ByzantineRule, average


@cache_tensors(maxsize=2)
def list_subsets(count: int, num_left_out: int) -> Int64[Tensor, "s m"]:
    """Return the positions in each subset, one row per subset, in lexicographic order."""
    subsets = list(combinations(range(count), count - num_left_out))
    return torch.tensor(subsets, dtype=torch.int64)


def compute_max_updates(num_left_out: int, num_subsets: int) -> int | None:
    """Return the largest n with at most `num_subsets` subsets of n - f; None if f is 0.

    >>> compute_max_updates(3, 286), compute_max_updates(0, 1)
    (13, None)
    """
    if num_left_out == 0:
        return None
    count = num_left_out + 1
    while comb(count + 1, num_left_out) <= num_subsets:
        count += 1
    return count


class SubsetMean(ByzantineRule, ABC):
    """The mean of the best n - f updates by some criterion, found among all subsets."""

    max_subsets: ClassVar[int]

    @property
    def max_updates(self) -> int | None:
        """Largest number of updates whose subsets can all be searched."""
        return compute_max_updates(self.num_byzantine, self.max_subsets)

    @abstractmethod
    def choose(self, updates: Float[Tensor, "n p"]) -> Int64[Tensor, " m"]:
        """Return the positions of the best n - f updates."""

    @final
    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean of the chosen updates."""
        self.check_count(updates)
        return average(state, updates, self.choose(updates))
