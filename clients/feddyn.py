"""The client side of FedDyn: SGD on a dynamically regularised loss."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import nn

from clients.scaffold import make_linear_penalty
from clients.sgd import SgdClient, descend, make_proximal_penalty
from fl_sim.contracts import Client, Shard
from fl_sim.models.parameters import flatten

ALPHA = "feddyn_alpha"  # name of the received value, also in strategies/feddyn.py
GRADIENT = "feddyn"  # name of the gradient in a client's memory


@final
@dataclass(frozen=True)
class FedDynClient(Client):
    """SGD on the loss, minus a linear term, plus a proximal term (dynamic regularisation).

    The client minimises F(w) - <g, w> + alpha / 2 |w - w_global|^2, and then sets g <- g - alpha (w
    - w_global), with g initially zero. The local optima then agree with that of the mean loss.
    Needs the rule `FedDyn`, which sends alpha; under any other rule this is plain SGD.

    Source: Acar et al. (2021), algorithm 1, https://arxiv.org/abs/2111.04263.

    Attributes:
        sgd: All other settings of the training.
    """

    sgd: SgdClient = field(default_factory=lambda: SgdClient(momentum=0.0))

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, and store the new gradient."""
        if ALPHA not in shard.received:
            return descend(self.sgd, model, shard, rng)
        start, alpha = flatten(model), float(shard.received[ALPHA])
        last_gradient = shard.memory.get(GRADIENT, torch.zeros_like(start))
        pull = make_proximal_penalty(model, alpha)
        linear = make_linear_penalty(model, -last_gradient)
        assert pull is not None
        metrics = descend(self.sgd, model, shard, rng, lambda: pull() + linear())
        shard.memory[GRADIENT] = last_gradient - alpha * (flatten(model) - start)
        return metrics

    def num_steps(self, num_examples: int) -> int:
        """Return the number of steps of the training."""
        return self.sgd.num_steps(num_examples)
