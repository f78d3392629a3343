"""FLTrust: the server trains on a few clean images itself, and trusts what points that way."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext
from fl_sim.core import serialization
from fl_sim.core.distances import inner_products, row_norms
from fl_sim.core.errors import require
from fl_sim.core.sums import weighted_sum


@final
@dataclass(frozen=True)
class FLTrust(InformedRule):
    """The mean of updates brought to the server's own length, weighted by their agreement.

    The server holds a few clean images and trains on them as a client does. An update counts by
    its cosine with the server's, not at all where that is negative. Withstands any number of
    attackers as far as the images are clean and alike those of the clients; where no update
    agrees, nothing moves.

    Source: Cao et al. (2021), algorithm 2, https://arxiv.org/abs/2012.13995.

    Attributes:
        num_root_samples: clean images that the server holds; the paper has 100.
    """

    num_root_samples: int = 100

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.num_root_samples >= 1, "num_root_samples", "at least 1", self.num_root_samples)

    @property
    def root_samples(self) -> int:
        """As many as the field says."""
        return self.num_root_samples

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the trusted mean.

        Raises:
            ValueError: without an update of the server's own.
        """
        self.check_count(updates)
        reference = context.reference
        if reference is None:
            raise ValueError("FLTrust needs an update of the server's own: Senders.reference")
        length, norms = reference.double().norm(), row_norms(updates)
        lengths = norms * length
        cosines = torch.where(lengths > 0, inner_products(updates, reference) / lengths, 0.0)
        trust = cosines.clamp(0, 1)
        shares = trust / trust.sum() if float(trust.sum()) > 0 else trust
        scales = torch.where(norms > 0, length / norms, 0.0)
        return AggregationResult(
            state, weighted_sum(shares * scales, updates).to(updates.dtype), shares, scales
        )
