"""The client side of SCAFFOLD: SGD corrected by control variates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clients.sgd import Penalty, SgdClient, descend
from fl_sim.contracts import Client, Shard
from fl_sim.models.batches import count_samples, min_batch_size
from fl_sim.models.parameters import flatten
from fl_sim.models.tuning import list_trained_parameters

CONTROL = "control"  # name of the vector sent in both directions, also in strategies/scaffold.py


@final
@dataclass(frozen=True)
class ScaffoldClient(Client):
    """SGD with the gradients g - c_i + c, with the control variates of client and server.

    The control variates estimate the gradients of all clients and of this one; their difference is
    the client's drift. Afterwards c_i <- c_i - c + (w_global - w) / (K eta) over K steps. Needs the
    rule `SCAFFOLD`; under any other rule this is plain SGD.

    Source: Karimireddy et al. (2020), algorithm 1, option II, https://arxiv.org/abs/1910.06378. The
    new control variate is the mean gradient that the update would stand for under plain SGD. With
    local momentum it is larger, up to 1 / (1 - momentum) times, as in common benchmarks.

    Attributes:
        sgd: All other settings of the training; the paper has no momentum.
    """

    sgd: SgdClient = field(default_factory=lambda: SgdClient(momentum=0.0))

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; store the new control variate, and send its change."""
        if CONTROL not in shard.received:
            return descend(self.sgd, model, shard, rng)
        start = flatten(model)
        server_control = shard.received[CONTROL].to(start.dtype)
        control = shard.memory.get(CONTROL, torch.zeros_like(start))
        penalty = make_linear_penalty(model, server_control - control)
        metrics = descend(self.sgd, model, shard, rng, penalty)
        settings = self.sgd
        rate = settings.learning_rate * settings.learning_rate_decay ** (shard.round - 1)
        num_steps = self.num_steps(count_samples(len(shard), min_batch_size(model, shard.inputs)))
        pace = rate * num_steps * _get_rates(model)
        new_control = control - server_control + (start - flatten(model)) / pace
        shard.memory[CONTROL], shard.sent[CONTROL] = new_control, new_control - control
        return metrics

    def sent_shapes(self, received: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the shape of the control variate, if the rule sends the server's."""
        return {CONTROL: tuple(received[CONTROL].shape)} if CONTROL in received else {}

    def num_steps(self, num_examples: int) -> int:
        """Return the number of steps of the training."""
        return self.sgd.num_steps(num_examples)


def make_linear_penalty(model: nn.Module, slope: Float[Tensor, " p"]) -> Penalty:
    """Return the inner product of the parameters with `slope`, whose gradient is `slope`."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    pieces = slope.split([parameter.numel() for parameter in trained])

    def penalty() -> Tensor:
        parts = (p.reshape(-1) @ piece for p, piece in zip(trained, pieces, strict=True))
        return torch.stack(list(parts)).sum()

    return penalty


def _get_rates(model: nn.Module) -> Float[Tensor, " p"]:
    """Return the factor of the learning rate for each parameter."""
    trained = list_trained_parameters(model)
    return torch.cat([torch.full((p.numel(),), rate) for p, rate in trained])
