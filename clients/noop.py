"""A client that does not train, for measuring the cost of a round."""

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from fl_sim.contracts import Client, Shard


@final
@dataclass(frozen=True)
class NoopClient(Client):
    """Send the model back as it came.

    The cost of a round is then that of the backend alone, as measured in benchmarks/.

    Source: this project.
    """

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Leave the model unchanged; return a loss and an accuracy of zero."""
        return {"train_loss": 0.0, "train_accuracy": 0.0}
