"""Gaussian noise instead of an update."""

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
class GaussianClient(Wrapper):
    """Send Gaussian noise as the update.

    Threat model: a broken or crude participant; it knows no other client.

    Source: Blanchard et al. (2017), section 5, https://arxiv.org/abs/1703.02757; the default is
    that of ByzFL (2025), https://arxiv.org/abs/2505.24802.

    Attributes:
        scale: Standard deviation of the noise.
        honest: Training that the attacker pretends to do, and whose metrics it reports.
    """

    action: ClassVar[str] = "send noise"

    scale: float = 1.0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "scale")

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, then replace the result by noise around the start."""
        start = flatten(model)
        metrics = self.honest.train(model, shard, rng)
        load_flat(model, start + self.scale * torch.randn(len(start), generator=rng))
        return metrics
