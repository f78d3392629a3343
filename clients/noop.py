"""A client that does nothing."""

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from fl_sim.contracts import Client, Shard


@final
@dataclass(frozen=True)
class NoopClient(Client):
    """Send the global parameters back as they came.

    Whatever a round costs then is the engine's own: what benchmarks/ measures.

    Source: this project.
    """

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Leave the model alone; report a loss and an accuracy of zero."""
        return {"train_loss": 0.0, "train_accuracy": 0.0}
