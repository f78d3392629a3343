"""FedDyn, the client's half: descent on a loss that is regularised anew each round."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import nn

from clients.scaffold import make_linear_penalty
from clients.sgd import SgdClient, descend, make_proximal_penalty
from fl_sim.contracts import Client, Shard
from fl_sim.core import serialization
from fl_sim.models.parameters import flatten

ALPHA = "feddyn_alpha"  # name of what the rule tells; strategies/feddyn.py has it too
GRADIENT = "feddyn"  # name of the gradient in a client's memory


@final
@dataclass(frozen=True)
class FedDynClient(Client):
    """Descent on the loss, minus its last gradient, plus a pull to the global model.

    So the clients' optima agree with that of their mean. Needs the rule `FedDyn`, which tells
    alpha; under any other this is plain descent.

    Source: Acar et al. (2021), algorithm 1, https://arxiv.org/abs/2111.04263: a client minimises
    L(x) - <g, x> + alpha / 2 |x - x_global|^2, and then g moves by -alpha times its update. g is
    zero before its first round.

    Attributes:
        sgd: everything else.
    """

    sgd: SgdClient = field(default_factory=lambda: SgdClient(momentum=0.0))

    def __post_init__(self) -> None:
        serialization.check_types(self)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, and keep the new gradient."""
        if ALPHA not in shard.received:
            return descend(self.sgd, model, shard, rng)
        start, alpha = flatten(model), float(shard.received[ALPHA])
        last_gradient = shard.memory.get(GRADIENT, torch.zeros_like(start))
        pull, linear = (
            make_proximal_penalty(model, alpha),
            make_linear_penalty(model, -last_gradient),
        )
        assert pull is not None
        metrics = descend(self.sgd, model, shard, rng, lambda: pull() + linear())
        shard.memory[GRADIENT] = last_gradient - alpha * (flatten(model) - start)
        return metrics

    def num_steps(self, num_examples: int) -> int:
        """Return those of the descent."""
        return self.sgd.num_steps(num_examples)
