"""Scaling (boosting) of an honest update."""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import nn

from clients._shared.wrapping import Wrapper
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Shard
from fl_sim.core.errors import require_above
from fl_sim.models.parameters import flatten, load_flat


@final
@dataclass(frozen=True)
class ScalingClient(Wrapper):
    """Train honestly, and send the update times a factor.

    Threat model: the attacker controls its own update, and knows no other client.

    Source: the boosting of Bhagoji et al. (2019), section 3.2, https://arxiv.org/abs/1811.12470.

    Attributes:
        factor: Norm of the forged update as a multiple of the trained one.
        honest: Training whose update is scaled.
    """

    action: ClassVar[str] = "scale updates"

    factor: float = 10.0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "factor")

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, then scale the update."""
        start = flatten(model)
        metrics = self.honest.train(model, shard, rng)
        load_flat(model, start + self.factor * (flatten(model) - start))
        return metrics
