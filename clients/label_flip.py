"""Label flipping: train honestly on wrong labels."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import nn

from clients.sgd import SgdClient
from fl_sim import description
from fl_sim.contracts import Client, Shard


@final
@dataclass(frozen=True)
class LabelFlipClient(Client):
    """Train on the mirrored labels y -> C - 1 - y.

    Threat model: the attacker controls its own data and nothing else.

    Source: Fang et al. (2020), section 5.1, https://arxiv.org/abs/1911.11815.

    Attributes:
        honest: the training that is led astray.
    """

    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        description.check_types(self)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place on the mirrored labels."""
        mirrored = replace(shard, labels=shard.num_classes - 1 - shard.labels)
        return self.honest.train(model, mirrored, rng)

    def local_steps(self, num_examples: int) -> int:
        """Return those of the training that it wraps."""
        return self.honest.local_steps(num_examples)
