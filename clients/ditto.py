"""Ditto: a personal model per client beside the global one."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor, nn

from clients.sgd import SgdClient, descend, make_proximal_penalty
from fl_sim.contracts import Client, Shard
from fl_sim.core.errors import require_at_least
from fl_sim.models.parameters import copy_buffers, flatten, load_buffers, load_flat

OWN = "ditto"  # name of the personal parameters in a client's memory
BUFFER = "ditto."  # prefix of the names of its buffers


@final
@dataclass(frozen=True)
class DittoClient(Client):
    """Training of the global model, and of a personal model regularised towards it.

    The personal model v minimises F(v) + lambda / 2 |v - w|^2, where w is the global model as
    received. The update is an ordinary one, which any rule can aggregate. The personal model starts
    at the first global model and stays with the client; `personal` evaluates it.

    Source: Li et al. (2021), algorithm 1, https://arxiv.org/abs/2012.04221.

    Attributes:
        pull: Weight of half the squared distance to the global model; lambda in the paper. At 0 the
            personal model is trained alone.
        sgd: Training of the global model.
        personal_epochs: Number of epochs of the personal model, with the same settings.
    """

    pull: float = 1.0
    sgd: SgdClient = field(default_factory=SgdClient)
    personal_epochs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "pull")
        require_at_least(self, 1, "personal_epochs")

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train both models; leave the global one in place, and store the personal one."""
        start, statistics = flatten(model), copy_buffers(model)
        penalty = make_proximal_penalty(
            model, self.pull
        )  # relative to the global model as received
        metrics = self.sgd.train(model, shard, rng)
        sent, sent_statistics = flatten(model), copy_buffers(model)
        if not self.load_personal_model(model, shard.memory):
            load_flat(model, start)
            load_buffers(model, statistics)
        settings = replace(self.sgd, local_epochs=self.personal_epochs, local_steps=None)
        descend(settings, model, shard, rng, penalty)
        shard.memory[OWN] = flatten(model)
        shard.memory.update({BUFFER + name: value for name, value in copy_buffers(model).items()})
        load_flat(model, sent)
        load_buffers(model, sent_statistics)
        return metrics

    def num_steps(self, num_examples: int) -> int:
        """Return the number of steps for the global model."""
        return self.sgd.num_steps(num_examples)

    def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
        """Load the personal model, if there is one yet."""
        if OWN not in memory:
            return False
        load_flat(model, memory[OWN])
        load_buffers(model, {name: memory[BUFFER + name] for name in copy_buffers(model)})
        return True
