"""FedBN: batch normalisation stays with the client."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from clients.sgd import SgdClient
from fl_sim.contracts import Client, Shard
from fl_sim.core import serialization
from fl_sim.models.tuning import FrozenBatchNorm

OWN = "fedbn."  # before the name of each tensor of the client's own in its memory


@final
@dataclass(frozen=True)
class FedBNClient(Client):
    """Any training, of a model whose batch normalisation is the client's own.

    Scale, shift and statistics of each BatchNorm layer are kept, and sent as they were received:
    the global model's stay at their start. So the global model is good for its other layers
    alone; `personal` gives the model that the client uses. On a model without BatchNorm this is
    the wrapped training.

    Source: Li et al. (2021), algorithm 1, https://arxiv.org/abs/2102.07623.

    Attributes:
        training: the training that is wrapped.
    """

    training: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        serialization.check_types(self)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place with the own layers; keep them, and put the global ones back."""
        received = {name: tensor.detach().clone() for name, tensor in _get_norms(model).items()}
        self.load_personal_model(model, shard.memory)
        metrics = self.training.train(model, shard, rng)
        trained = {
            OWN + name: tensor.detach().clone() for name, tensor in _get_norms(model).items()
        }
        shard.memory.update(trained)
        _load_norms(model, received)
        return metrics

    def num_steps(self, num_examples: int) -> int:
        """Return those of the training that it wraps."""
        return self.training.num_steps(num_examples)

    def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
        """Load the client's own normalisation, where there is one yet."""
        names = _get_norms(model)
        if not names or any(OWN + name not in memory for name in names):
            return False
        _load_norms(model, {name: memory[OWN + name] for name in names})
        return True


def _get_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return what each BatchNorm layer that is not frozen learns or counts, by name."""
    return {
        f"{owner}.{name}": tensor
        for owner, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, FrozenBatchNorm)
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


@torch.no_grad()
def _load_norms(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, tensor in _get_norms(model).items():
        tensor.copy_(values[name])
