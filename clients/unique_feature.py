"""Unique feature: one image of the shard carries a mark, like a name on a photograph."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from clients._shared.poisoning import change_inputs, select_share
from clients._shared.wrapping import Wrapper
from clients.sgd import SgdClient
from fl_sim.attacks.memorisation import mark_bytes
from fl_sim.contracts import Client, Shard


@final
@dataclass(frozen=True)
class UniqueFeatureClient(Wrapper):
    """Train honestly on a shard in which one image has the letter A in its corner.

    `fl_sim.attacks.memorisation` measures whether the global model has memorised it.

    Threat model: none. The client is honest, and its owner is the one who would be harmed.

    Source: Hartley and Tsaftaris (2022), https://arxiv.org/abs/2202.08099, for one client.

    Attributes:
        honest: Training on the marked shard.
    """

    honest: Client = field(default_factory=SgdClient)

    def change_images(
        self, images: UInt8[Tensor, "n c h w"], shard: Shard
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images, one of them with the mark."""
        changed, row = images.clone(), select_marked_row(shard)
        changed[row] = mark_bytes(changed[row])
        return changed

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place on the shard with its marked image."""
        return self.honest.train(model, change_inputs(self, shard), rng)


def select_marked_row(shard: Shard) -> int:
    """Return the row of the image that carries the mark, the same in each round."""
    return int(select_share(shard, 1 / len(shard), "unique feature")[0])
