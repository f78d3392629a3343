"""A canary: a client that sends a random direction, to see what a private run gives away."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import nn

from clients._shared.wrapping import Wrapper
from clients.sgd import SgdClient
from fl_sim.attacks.canaries import draw_canary
from fl_sim.contracts import Client, Shard, Update
from fl_sim.core import serialization
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class CanaryClient(Wrapper):
    """Send a random direction of a given length in place of an update, the same each round.

    With `fl_sim.attacks.canaries.canary_epsilon`, its cosine with what the run released gives an
    estimate of epsilon. Make it as long as the rule lets any update be.

    Threat model: none. Canaries are the auditor's own clients, and cost some accuracy.

    Source: Andrew et al. (2024), algorithm 2, https://arxiv.org/abs/2302.03098.

    Attributes:
        length: of the direction.
        seed: that the directions are drawn from, client by client.
        honest: the training whose place in the round it takes.
    """

    length: float = 1.0
    seed: int = 0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.length > 0, "length", "above 0", self.length)
        require(self.seed >= 0, "seed", "at least 0", self.seed)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train as the wrapped client does; what is sent is made afterwards."""
        return self.honest.train(model, shard, rng)

    def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
        """Send the direction, as often as the wrapped client sends."""
        assert update.delta is not None
        direction = self.length * draw_canary(shard.client, len(update.delta), self.seed)
        forged = replace(update, delta=direction.to(update.delta.dtype))
        return self.honest.replies(forged, shard)
