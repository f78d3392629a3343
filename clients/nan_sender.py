"""A client that sends no numbers."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import nn

from clients.sgd import SgdClient
from fl_sim import description
from fl_sim.contracts import Client, Shard
from fl_sim.models.parameters import flat, load_flat


@final
@dataclass(frozen=True)
class NanSenderClient(Client):
    """Train honestly, then send NaN for every parameter.

    Threat model: a broken or malicious participant; the server has to notice it by itself.

    Source: the Inf attack of ByzFL (2025), https://arxiv.org/abs/2505.24802, with NaN, which
    more rules let through.

    Attributes:
        honest: the training that comes before.
    """

    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        description.check_types(self)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, then spoil every parameter."""
        metrics = self.honest.train(model, shard, rng)
        load_flat(model, torch.full_like(flat(model), torch.nan))
        return metrics

    def local_steps(self, num_examples: int) -> int:
        """Return those of the training that it wraps."""
        return self.honest.local_steps(num_examples)
