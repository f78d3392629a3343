"""Poisoned statistics: forged moments in place of those of a client's own features."""

from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import nn

from clients._shared.wrapping import Wrapper
from clients.statistics import StatisticsClient
from fl_sim.contracts import Client, Shard
from fl_sim.core.errors import require_above
from fl_sim.models.closed_form import explain_missing_head, find_statistics_head


@final
@dataclass(frozen=True)
class PoisonedStatisticsClient(Wrapper):
    """Send honest statistics with the class sums of other classes, or negated, and scaled.

    For heads that are solved from statistics (`model.tune=ridge` and others). Shares of classes and
    second moments stay as they are, so that only the link between features and classes is forged.
    `LabelFlipClient`, `SignFlipClient`, `ScalingClient` and the colluding attacks work on
    statistics as well, as on any update.

    Threat model: the attacker controls its own update, and knows no other client.

    Source: this project; the scaling is the boosting of Bhagoji et al. (2019), section 3.2,
    https://arxiv.org/abs/1811.12470, on the class sums.

    Attributes:
        forgery: Class sums that are sent: `rotated`, those of the next class; or `negated`.
        factor: Factor of the forged class sums.
        honest: Client whose statistics are forged.
    """

    forgery: Literal["rotated", "negated"] = "rotated"
    factor: float = 10.0
    honest: Client = field(default_factory=StatisticsClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "factor")

    def cannot_train(self, model: nn.Module) -> str:
        """Return the reason why a network has no place for statistics, or the wrapped client's."""
        return explain_missing_head(model) or super().cannot_train(model)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Set the statistics to those of the wrapped client, then forge the class sums."""
        head = find_statistics_head(model)
        assert head is not None
        start = head.sums.detach().clone()
        metrics = self.honest.train(model, shard, rng)
        own = head.sums.detach() - start
        forged = own.roll(1, 0) if self.forgery == "rotated" else -own
        with torch.no_grad():
            head.sums.copy_(start + self.factor * forged)
        return metrics
