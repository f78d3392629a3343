"""Nearest-neighbour mixing (NNM) before any rule."""

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, RoundContext, Updates, Weights
from fl_sim.core.distances import squared_distances
from fl_sim.core.sums import use_one_thread
from strategies._shared.mixing import WIDTH, Mix, RobustWrappingRule, decide_mixed, trace_back
from strategies.median import CoordinateMedian


def find_neighbours(updates: Float[Tensor, "n p"], num_byzantine: int) -> Bool[Tensor, "n n"]:
    """Return a boolean [n, n] matrix of each update's n - f nearest updates, including itself.

    Ties go to the lower position.
    """
    count = len(updates) - num_byzantine
    distances = squared_distances(updates).fill_diagonal_(-1)  # itself first, even among duplicates
    nearest = distances.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(distances, dtype=torch.bool).scatter_(1, nearest, True)


def make_neighbour_mean(near: Bool[Tensor, "n n"], updates: Float[Tensor, "n p"]) -> Mix:
    """Return a function that replaces each update by the mean of its neighbours.

    Sums have the type of the updates: in float32 the error is at most n roundings of the mean
    absolute value, negligible beside the distances between updates, at twice the speed of float64.
    The division comes last, so that sums of whole numbers stay exact. Sums that overflow float32,
    and those on an accelerator, are made in float64. A result is valid until the next call.
    """
    count, size = int(near[0].sum()), updates.shape[1]
    members = near.to(updates.dtype).cpu().numpy()
    low, high = updates.aminmax()
    overflows = count * float(torch.maximum(-low, high)) > torch.finfo(updates.dtype).max
    buffer = np.empty(
        (len(near), min(size, WIDTH)), members.dtype
    )  # reused: new pages cost more than sums

    def mix(part: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        if overflows or not part.is_cpu:
            return (near.double() @ part.double() / count).to(part.dtype)
        mixed = buffer[:, : part.shape[1]]
        with use_one_thread():
            np.matmul(members, part.numpy(), out=mixed)
        mixed /= members.dtype.type(count)
        return torch.from_numpy(mixed)

    return mix


@final
@dataclass(frozen=True)
class NearestNeighborMixing(RobustWrappingRule):
    """Any rule, applied to the mean of each update and its nearest neighbours (NNM).

    Update u_i is replaced by the mean of the n - f updates nearest to it, which makes honest
    updates of heterogeneous shards alike. Tolerates `num_byzantine` = f < n / 2 clients if the
    wrapped rule does; its own `num_byzantine` must be at least as large.

    Source: Allouah et al. (2023), algorithm 2, https://arxiv.org/abs/2302.01772.

    Attributes:
        num_byzantine: Number of attackers to tolerate; an update is mixed with all but as many
            others.
        rule: Rule that aggregates the mixed updates.
    """

    num_byzantine: int = 1
    rule: AggregationRule = field(default_factory=CoordinateMedian)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the rule's result for the mixed updates; weights stay with their clients."""
        self.check_count(updates)
        near = find_neighbours(updates, self.num_byzantine)
        mix = make_neighbour_mean(near, updates)
        inner = decide_mixed(self.rule, state, mix, updates, weights, context)
        return trace_back(inner, near / near.sum(1, keepdim=True, dtype=torch.float64))
