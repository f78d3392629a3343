"""Canary clients for auditing the privacy of a run."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import nn

from clients._shared.wrapping import Wrapper
from clients.sgd import SgdClient
from fl_sim.attacks.canaries import draw_canary
from fl_sim.contracts import Client, Shard, Update
from fl_sim.core.errors import require_above, require_at_least


@final
@dataclass(frozen=True)
class CanaryClient(Wrapper):
    """Send a random direction of a given norm instead of an update, the same in each round.

    With `fl_sim.attacks.canaries.canary_epsilon`, its cosine with what the run released gives an
    estimate of epsilon. The norm should be the largest that the rule accepts.

    Threat model: none. Canaries are the auditor's own clients, and cost some accuracy.

    Source: Andrew et al. (2024), algorithm 2, https://arxiv.org/abs/2302.03098.

    Attributes:
        length: L2 norm of the direction.
        seed: Seed from which the directions are drawn, client by client.
        honest: Training whose update is replaced.
    """

    length: float = 1.0
    seed: int = 0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "length")
        require_at_least(self, 0, "seed")

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train as the wrapped client does."""
        return self.honest.train(model, shard, rng)

    def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
        """Return the direction, as often as the wrapped client sends an update."""
        assert update.delta is not None
        direction = self.length * draw_canary(shard.client, len(update.delta), self.seed)
        forged = replace(update, delta=direction.to(update.delta.dtype))
        return self.honest.replies(forged, shard)
