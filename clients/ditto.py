"""Ditto: each client trains a model of its own beside the global one."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor, nn

from clients.sgd import SgdClient, descend, make_proximal_penalty
from fl_sim.contracts import Client, Shard
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.models.parameters import copy_buffers, flatten, load_buffers, load_flat

OWN = "ditto"  # name of the personal parameters in a client's memory
BUFFER = "ditto."  # before the name of each of its buffers


@final
@dataclass(frozen=True)
class DittoClient(Client):
    """Descent for the global model, and descent for one's own that is held near the global one.

    What is sent is an ordinary update, so that any rule can aggregate it. The personal model
    starts at the first global one, stays with the client, and is what `personal` gives.

    Source: Li et al. (2021), algorithm 1, https://arxiv.org/abs/2012.04221. Personal steps pull
    towards the global model as it was received.

    Attributes:
        pull: weight of half the squared distance to the global model; lambda of the paper. At
            0, a client trains its own model alone.
        sgd: the descent for the global model.
        personal_epochs: passes over the shard for the personal model, by the same descent.
    """

    pull: float = 1.0
    sgd: SgdClient = field(default_factory=SgdClient)
    personal_epochs: int = 1

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.pull >= 0, "pull", "at least 0", self.pull)
        require(self.personal_epochs >= 1, "personal_epochs", "at least 1", self.personal_epochs)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train both models; leave the global one in place, and keep the own one."""
        start, statistics = flatten(model), copy_buffers(model)
        penalty = make_proximal_penalty(model, self.pull)  # to where the model stands now
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
        """Return those for the global model."""
        return self.sgd.num_steps(num_examples)

    def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
        """Load the personal model, where there is one yet."""
        if OWN not in memory:
            return False
        load_flat(model, memory[OWN])
        load_buffers(model, {name: memory[BUFFER + name] for name in copy_buffers(model)})
        return True
