"""FLAME: clustering by direction, clipping and noise."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from sklearn.cluster import HDBSCAN
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import (
    clip_factors,
    cosines_from_gram,
    equal_shares,
    uncentred_gram_matrix,
)
from fl_sim.core.errors import require_at_least
from fl_sim.core.seeding import generator
from fl_sim.core.sums import narrow, weighted_sum


@final
@dataclass(frozen=True)
class FLAME(InformedRule):
    """The noisy mean of the updates in one majority cluster, clipped to the median norm S.

    HDBSCAN on cosine distances keeps the cluster of more than half of the clients, if there is one,
    and all clients otherwise; updates are clipped to S, averaged, and given Gaussian noise of
    standard deviation lambda S to remove the remaining backdoors. Unweighted. Tolerates fewer than
    half of the clients.

    Source: Nguyen et al. (2022), algorithm 1, https://arxiv.org/abs/2101.02281. The paper takes
    cosines of models, this rule of updates. The noise depends on the run's seed and the round.

    Attributes:
        noise: Standard deviation of the noise on each parameter, as a multiple of the median norm
            of the updates; lambda in the paper.
    """

    noise: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "noise")

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the noisy mean of the majority cluster."""
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
    """Return a mask of the cluster that more than half of the updates form, or of all updates."""
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
    inside = torch.as_tensor(clusters.fit(apart.cpu().numpy()).labels_ == 0)
    return inside if bool(inside.any()) else all_updates
