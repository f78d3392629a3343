"""SignGuard: filtering by norms and sign statistics."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.cluster import MeanShift, estimate_bandwidth
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import clip_factors, equal_shares, row_norms
from fl_sim.core.errors import require, require_at_least
from fl_sim.core.seeding import generator
from fl_sim.core.sums import weighted_sum


@final
@dataclass(frozen=True)
class SignGuard(InformedRule):
    """The mean of the updates with usual norms and signs, clipped to the median norm.

    An update passes if its norm is within [`shortest`, `longest`] times the median, and its shares
    of positive, zero and negative values, on random coordinates, are in the largest cluster.
    Unweighted. Tolerates fewer than half of the clients if their deviations show in norms or signs.
    If no update passes both filters, the model does not move.

    Source: Xu et al. (2022), algorithm 2, https://arxiv.org/abs/2109.05872. Clusters are those of
    scikit-learn's mean shift with its own estimate of the bandwidth at quantile 0.5. The
    coordinates depend on the run's seed and the round.

    Attributes:
        shortest, longest: Bounds of an accepted norm, as multiples of the median norm.
        fraction: Share of the coordinates whose signs are counted.
    """

    shortest: float = 0.1
    longest: float = 3.0
    fraction: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.shortest <= 1, "shortest", "in [0, 1]", self.shortest)
        require_at_least(self, 1, "longest")
        require(0 < self.fraction <= 1, "fraction", "in (0, 1]", self.fraction)

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean of the updates that pass both filters."""
        self.check_count(updates)
        norms = row_norms(updates)
        usual = float(norms.quantile(0.5))
        passed = (norms >= self.shortest * usual) & (norms <= self.longest * usual)
        rng = generator(context.seed, "signguard", context.round)
        size = updates.shape[1]
        count = max(1, int(self.fraction * size))
        sampled = updates[:, torch.randperm(size, generator=rng)[:count].sort().values]
        passed &= find_sign_cluster(sampled)
        shares = equal_shares(passed.nonzero().squeeze(1), len(updates))
        scales = clip_factors(norms, usual)
        step = weighted_sum(shares * scales, updates).to(updates.dtype)
        return AggregationResult(state, step, shares, scales)


def find_sign_cluster(sampled: Float[Tensor, "n c"]) -> Bool[Tensor, " n"]:
    """Return a mask of the largest cluster by shares of positive, zero and negative values.

    Of clusters of equal size, the one with the lowest position is taken.
    """
    signs = [(sampled > 0), (sampled == 0), (sampled < 0)]
    shares = torch.stack([sign.double().mean(1) for sign in signs], 1).cpu().numpy()
    bandwidth = estimate_bandwidth(shares, quantile=0.5) if len(shares) > 1 else 0.0
    if bandwidth == 0:  # mean shift needs one above 0; then equal shares form a cluster
        labels = np.unique(shares, axis=0, return_inverse=True)[1].reshape(-1)
    else:
        labels = MeanShift(bandwidth=bandwidth).fit(shares).labels_
    sizes = np.bincount(labels)
    largest = next(label for label in labels if sizes[label] == sizes.max())
    return torch.as_tensor(labels == largest)
