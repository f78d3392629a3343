"""FedProx: local SGD with a proximal term."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import nn

from clients.sgd import SgdClient, descend, make_proximal_penalty
from fl_sim.contracts import Client, SgdConfig, Shard
from fl_sim.core.errors import require_at_least


@final
@dataclass(frozen=True)
class FedProxClient(Client):
    """SGD on the loss plus the proximal term mu / 2 |w - w_global|^2.

    Source: Li et al. (2020), equation 2, https://arxiv.org/abs/1812.06127.

    Attributes:
        mu: Weight of the proximal term; 0 is plain SGD.
        sgd: All other settings of the training.
    """

    mu: float = 0.01
    sgd: SgdClient = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "mu")

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; return the metrics of plain SGD."""
        return descend(self.sgd, model, shard, rng, make_proximal_penalty(model, self.mu))

    def sgd_config(self, round_num: int) -> SgdConfig | None:
        """Return the configuration of plain SGD with the weight of the proximal term."""
        plain = self.sgd.sgd_config(round_num)
        return None if plain is None else replace(plain, mu=self.mu)

    def num_steps(self, num_examples: int) -> int:
        """Return the number of steps of the training."""
        return self.sgd.num_steps(num_examples)
