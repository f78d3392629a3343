"""Unique feature: one image of the shard carries a mark, like a name on a photograph."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from torch import nn

from clients._shared.poisoning import copy_images, select_share
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
    needs_images: ClassVar[bool] = True

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place on the shard with its marked image.

        Raises:
            ValueError: If the shard holds features: a mark needs images.
        """
        inputs, row = copy_images(shard), select_marked_row(shard)
        inputs[row] = mark_bytes(inputs[row])
        return self.honest.train(model, replace(shard, inputs=inputs), rng)


def select_marked_row(shard: Shard) -> int:
    """Return the row of the image that carries the mark, the same in each round."""
    return int(select_share(shard, 1 / len(shard), "unique feature")[0])
