"""SCAFFOLD, the client's half: descent corrected by control variates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clients.sgd import Penalty, SgdClient, descend
from fl_sim.contracts import Client, Shard
from fl_sim.core import serialization
from fl_sim.models.batches import count_samples, min_batch_size
from fl_sim.models.parameters import flatten
from fl_sim.models.tuning import list_trained_parameters

CONTROL = "control"  # name of the vector that goes both ways; strategies/scaffold.py has it too


@final
@dataclass(frozen=True)
class ScaffoldClient(Client):
    """Descent that adds the server's control variate to each gradient and takes off its own.

    The control variates estimate the gradient of all clients and of this one; their difference
    is what pulls the client away from the others. Needs the rule `SCAFFOLD`; under any other,
    which tells no control variate, this is plain descent.

    Source: Karimireddy et al. (2020), algorithm 1, option II, https://arxiv.org/abs/1910.06378.
    The new control variate is the mean gradient that the update stands for, as plain SGD would
    have taken it. With local momentum it comes out larger, up to 1 / (1 - momentum) times;
    common benchmarks do that nevertheless.

    Attributes:
        sgd: everything else; the paper has no momentum.
    """

    sgd: SgdClient = field(default_factory=lambda: SgdClient(momentum=0.0))

    def __post_init__(self) -> None:
        serialization.check_types(self)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; keep the new control variate, and send how much it changed."""
        if CONTROL not in shard.received:
            return descend(self.sgd, model, shard, rng)
        start = flatten(model)
        server_control = shard.received[CONTROL].to(start.dtype)
        control = shard.memory.get(CONTROL, torch.zeros_like(start))
        metrics = descend(
            self.sgd, model, shard, rng, make_linear_penalty(model, server_control - control)
        )
        settings = self.sgd
        rate = settings.learning_rate * settings.learning_rate_decay ** (shard.round - 1)
        num_steps = self.num_steps(count_samples(len(shard), min_batch_size(model, shard.inputs)))
        pace = rate * num_steps * _get_rates(model)
        new_control = control - server_control + (start - flatten(model)) / pace
        shard.memory[CONTROL], shard.sent[CONTROL] = new_control, new_control - control
        return metrics

    def sent_shapes(self, received: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the change of the control variate, where the rule tells the server's."""
        return {CONTROL: tuple(received[CONTROL].shape)} if CONTROL in received else {}

    def num_steps(self, num_examples: int) -> int:
        """Return those of the descent."""
        return self.sgd.num_steps(num_examples)


def make_linear_penalty(model: nn.Module, slope: Float[Tensor, " p"]) -> Penalty:
    """Return the inner product of the parameters with `slope`, which its gradient then is."""
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
