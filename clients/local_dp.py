"""Local differential privacy: clipping and noise before an update leaves the client."""

import math
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor, nn

from clients._shared.wrapping import Delegate
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Release, Releases, Shard
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.models.parameters import copy_buffers, flatten, load_flat

TAKEN = "local_dp.rounds"  # name of the number of rounds so far in a client's memory


@final
@dataclass(frozen=True)
class LocalDpClient(Delegate):
    """Any training, whose update the client clips and perturbs by Gaussian noise itself.

    Sends u min(1, C / |u|) + N(0, z^2 C^2). No other party needs to be trusted, including the
    server: an update could as well have come from any other data. This takes far more noise than
    `DifferentialPrivacy`, which hides a client among all others. Two updates differ by up to 2 C,
    and sampling does not hide the sender, so each round costs as much as one Gaussian release with
    half the `noise_multiplier`. Rows `epsilon` of group `local` hold the privacy spent by each
    client over the rounds in which it took part, by `fl_sim.privacy.accounting`.

    Source: Gaussian mechanism, Dwork and Roth (2014), theorem A.1,
    https://doi.org/10.1561/0400000042, on a clipped update as in Flower's `LocalDpMod`, which takes
    its sensitivity apart from the clipping norm and does not compose rounds. The noise comes from
    the run's seed and can be removed by those who know it: a simulation of privacy, not privacy.

    Attributes:
        clipping_norm: Largest L2 norm of an update; C.
        noise_multiplier: Standard deviation of the noise on each coordinate, as a multiple of
            `clipping_norm`; z.
        delta: Probability with which the epsilon guarantee may fail.
        reports: Training metrics that the client reports: NaN (`withheld`), or those of the
            training, which epsilon does not cover (`exact`).
        training: Training that gives the update.
    """

    clipping_norm: float = 1.0
    noise_multiplier: float = 1.0
    delta: float = 1e-5
    reports: Literal["withheld", "exact"] = "withheld"
    training: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "clipping_norm")
        require_at_least(self, 0, "noise_multiplier")
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)

    @property
    def inner(self) -> Client:
        """The wrapped training."""
        return self.training

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, then move the parameters to the start plus the noisy update.

        Raises:
            ValueError: If the training sends vectors beside the update, which carry no noise.
        """
        start = flatten(model)
        metrics = self.training.train(model, shard, rng)
        if shard.sent:
            raise ValueError(f"{', '.join(sorted(shard.sent))} would leave without noise")
        update = flatten(model).double() - start.double()
        length = float(torch.linalg.vector_norm(update))
        update *= min(1.0, self.clipping_norm / max(length, math.ulp(0.0)))
        noise = torch.randn(len(update), generator=rng, dtype=torch.float64)
        update += self.noise_multiplier * self.clipping_norm * noise
        load_flat(model, (start.double() + update).to(start.dtype))
        before = int(shard.memory.get(TAKEN, torch.zeros((), dtype=torch.int64)))
        shard.memory[TAKEN] = torch.tensor(before + 1)
        return metrics if self.reports == "exact" else dict.fromkeys(metrics, math.nan)

    def cannot_train(self, model: nn.Module) -> str:
        """Return a reason against BatchNorm statistics, which carry no noise, or the training's."""
        if copy_buffers(model):
            return "statistics of BatchNorm would leave the client without noise"
        return super().cannot_train(model)

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Return one noisy update per round, at a sensitivity of twice the clipping norm."""
        rounds = Release(self.noise_multiplier / 2, count=int(memory.get(TAKEN, 0)))
        return Releases((rounds,), self.delta, "local")
