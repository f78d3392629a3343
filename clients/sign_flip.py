"""Sign flipping: the opposite of an honest update."""

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
class SignFlipClient(Wrapper):
    """Train honestly, and send the update times -scale.

    Threat model: the attacker controls its own update, and knows no other client.

    Source: Li et al. (2019), RSA, section 5, https://arxiv.org/abs/1811.03761.

    Attributes:
        scale: Norm of the forged update as a multiple of the honest one.
        honest: Training whose update is reversed.
    """

    action: ClassVar[str] = "flip signs"

    scale: float = 1.0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "scale")

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, then reverse the update."""
        start = flatten(model)
        metrics = self.honest.train(model, shard, rng)
        load_flat(model, start - self.scale * (flatten(model) - start))
        return metrics
