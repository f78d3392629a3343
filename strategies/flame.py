"""FLAME: cluster the directions, bound the lengths, add noise."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from sklearn.cluster import HDBSCAN
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext
from fl_sim.core import serialization
from fl_sim.core.distances import (
    clip_factors,
    cosines_from_gram,
    equal_shares,
    uncentred_gram_matrix,
)
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator
from fl_sim.core.sums import narrow, weighted_sum


@final
@dataclass(frozen=True)
class FLAME(InformedRule):
    """The noisy mean of the updates of one majority cluster, shortened to the median length.

    More than half of the clients have to form one cluster by direction; the others are left
    out. The noise is to wash out backdoors that are left. Unweighted. Withstands fewer than
    half of the clients. Where no majority is a cluster, all count.

    Source: Nguyen et al. (2022), algorithm 1, https://arxiv.org/abs/2101.02281. The paper takes
    cosines of models; a rule sees updates. The noise depends on the run's seed and the round.

    Attributes:
        noise: standard deviation of the noise on each parameter, as a multiple of the median
            length of the updates; lambda of the paper.
    """

    noise: float = 0.001

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.noise >= 0, "noise", "at least 0", self.noise)

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the noisy mean of the majority."""
        self.check_count(updates)
        products = uncentred_gram_matrix(updates)
        norms = products.diagonal().sqrt()
        usual = float(norms.quantile(0.5))
        cluster = find_majority(cosines_from_gram(products)).nonzero().squeeze(1)
        shares, scales = equal_shares(cluster, len(updates)), clip_factors(norms, usual)
        step = weighted_sum(shares * scales, updates)
        rng = generator(context.seed, "flame", context.round)
        step += self.noise * usual * torch.randn(len(step), generator=rng, dtype=torch.float64)
        return AggregationResult(state, narrow(step, updates.dtype), shares, scales)


def find_majority(cosines: Float[Tensor, "n n"]) -> Bool[Tensor, " n"]:
    """Return who is in the one cluster that more than half of the updates form; all if none."""
    count = len(cosines)
    all_updates = torch.ones(count, dtype=torch.bool)
    if count < 3:
        return all_updates
    apart = (1 - cosines).clamp(min=0).fill_diagonal_(0)
    clusters = HDBSCAN(
        min_cluster_size=count // 2 + 1,
        min_samples=1,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,
    )
    inside = torch.from_numpy(clusters.fit(apart.numpy()).labels_ == 0)
    return inside if bool(inside.any()) else all_updates
