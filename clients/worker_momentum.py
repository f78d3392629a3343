"""Worker momentum: updates averaged over the rounds before they are sent."""

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import nn

from clients._shared.wrapping import Delegate
from clients.sgd import SgdClient
from fl_sim.contracts import Client, SgdConfig, Shard, Update
from fl_sim.core.errors import require
from fl_sim.models.parameters import flatten, load_flat
from fl_sim.training.momentum import update_running_mean


@final
@dataclass(frozen=True)
class WorkerMomentumClient(Delegate):
    """Send m <- beta m + (1 - beta) u, where u is the update of the round and m persists.

    With one local step of plain SGD this is the momentum of distributed SGD, which lowers the
    variance of honest updates, so that robust rules can separate attackers. m is initially zero,
    its bias is not corrected, and a round without the client leaves it unchanged.

    Source: Karimireddy et al. (2021), algorithm 2, https://arxiv.org/abs/2012.10333, as in ByzFL
    (2025), https://arxiv.org/abs/2505.24802. With more than one local step, u stands for the
    gradient.

    Attributes:
        momentum: Decay of m; beta in the paper.
        training: Training that gives u.
    """

    momentum: float = 0.9
    training: Client = field(default_factory=lambda: SgdClient(momentum=0.0, local_steps=1))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)

    @property
    def inner(self) -> Client:
        """The wrapped training."""
        return self.training

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, then move the parameters to the start plus m."""
        start = flatten(model)
        metrics = self.training.train(model, shard, rng)
        mean = update_running_mean(self.momentum, flatten(model) - start, shard.memory)
        load_flat(model, start + mean)
        return metrics

    def sgd_config(self, round_num: int) -> SgdConfig | None:
        """Return the training's configuration with this momentum; None if it has its own."""
        plain = self.training.sgd_config(round_num)
        if plain is None or plain.worker_momentum:
            return None
        return replace(plain, worker_momentum=self.momentum)

    def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
        """Return as many updates as the training does."""
        return self.training.replies(update, shard)
