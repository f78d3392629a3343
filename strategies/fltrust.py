"""FLTrust: trust scores from the server's own update on clean images."""

from dataclasses import dataclass
from typing import Any, final

import torch

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import inner_products, row_norms
from fl_sim.core.errors import require_at_least
from fl_sim.core.sums import weighted_sum


@final
@dataclass(frozen=True)
class FLTrust(InformedRule):
    """The mean of the normalised updates, weighted by their cosine with the server's update.

    The server trains on a few clean images as a client does, which gives u_0. With trust scores
    TS_i = max(0, cos(u_i, u_0)), the step is sum_i TS_i (|u_0| / |u_i|) u_i / sum_i TS_i. Tolerates
    any number of attackers as far as the images are clean and distributed like those of the
    clients; if no update agrees, the model does not move.

    Source: Cao et al. (2021), algorithm 2, https://arxiv.org/abs/2012.13995.

    Attributes:
        num_root_samples: Number of clean images on the server; 100 in the paper.
    """

    num_root_samples: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "num_root_samples")

    @property
    def root_samples(self) -> int:
        """Number of clean images on the server."""
        return self.num_root_samples

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean weighted by trust.

        Raises:
            ValueError: If the server's own update is missing.
        """
        self.check_count(updates)
        reference = context.reference
        if reference is None:
            raise ValueError("FLTrust needs an update of the server's own: RoundContext.reference")
        length, norms = reference.double().norm(), row_norms(updates)
        lengths = norms * length
        cosines = torch.where(lengths > 0, inner_products(updates, reference) / lengths, 0.0)
        trust = cosines.clamp(0, 1)
        shares = trust / trust.sum() if float(trust.sum()) > 0 else trust
        scales = torch.where(norms > 0, length / norms, 0.0)
        return AggregationResult(
            state, weighted_sum(shares * scales, updates).to(updates.dtype), shares, scales
        )
