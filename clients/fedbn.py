"""FedBN: local batch normalisation."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from clients.sgd import SgdClient
from fl_sim.contracts import Client, Shard
from fl_sim.models.tuning import FrozenBatchNorm

OWN = "fedbn."  # prefix of the names of the local tensors in a client's memory


@final
@dataclass(frozen=True)
class FedBNClient(Client):
    """Any training of a model whose batch normalisation stays with the client.

    Scale, shift and statistics of each BatchNorm layer are stored locally and sent as they were
    received: those of the global model remain initial. The global model is therefore useful for its
    other layers alone; `personal` evaluates the client's own model. On a model without BatchNorm
    this is the wrapped training.

    Source: Li et al. (2021), algorithm 1, https://arxiv.org/abs/2102.07623.

    Attributes:
        training: Wrapped training.
    """

    training: Client = field(default_factory=SgdClient)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place with the local layers; store them, and restore the global ones."""
        received = {name: tensor.detach().clone() for name, tensor in _get_norms(model).items()}
        self.load_personal_model(model, shard.memory)
        metrics = self.training.train(model, shard, rng)
        for name, tensor in _get_norms(model).items():
            shard.memory[OWN + name] = tensor.detach().clone()
        _load_norms(model, received)
        return metrics

    def num_steps(self, num_examples: int) -> int:
        """Return the number of steps of the wrapped training."""
        return self.training.num_steps(num_examples)

    def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
        """Load the client's own batch normalisation, if there is one yet."""
        names = _get_norms(model)
        if not names or any(OWN + name not in memory for name in names):
            return False
        _load_norms(model, {name: memory[OWN + name] for name in names})
        return True


def _get_norms(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and statistics of each BatchNorm layer that is not frozen, by name."""
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
