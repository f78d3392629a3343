"""Local differential privacy: noise on the update before it leaves the client."""

import math
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import Tensor, nn

from clients._shared.wrapping import Delegate
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Release, Releases, Shard
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.models.parameters import copy_buffers, flatten, load_flat

TAKEN = "local_dp.rounds"  # name of the number of rounds so far in a client's memory


@final
@dataclass(frozen=True)
class LocalDpClient(Delegate):
    """Any training, whose update is shortened, and given Gaussian noise, by the client itself.

    Nobody has to be trusted, the server least of all: whatever a client holds, its update could
    as well have come from any other data. That takes far more noise than `DifferentialPrivacy`,
    which hides a client among all others. Two updates are up to twice `clipping_norm` apart,
    and no draw hides who sent one; so each round costs as much as one Gaussian release with half
    the `noise_multiplier`. Rows `epsilon` of group `local` say what each client has spent over
    the rounds that it took part in, by `fl_sim.privacy.accounting`.

    Source: Gaussian mechanism, Dwork and Roth (2014), theorem A.1,
    https://doi.org/10.1561/0400000042, on a clipped update as in Flower's `LocalDpMod`; that one
    takes its sensitivity as an argument, apart from the norm at which it clips, and does not
    compose rounds. The noise comes from the run's seed, so whoever knows it can take the noise
    off again: a simulation of privacy, not privacy.

    Attributes:
        clipping_norm: longest update that is sent in full; C.
        noise_multiplier: standard deviation of the noise on each coordinate, as a multiple of
            `clipping_norm`.
        delta: probability with which epsilon may fail.
        reports: what the client tells of its training beside the update: nothing, NaN in its
            place (`withheld`), or what the training reports, which epsilon does not cover
            (`exact`).
        training: what gives the update.
    """

    clipping_norm: float = 1.0
    noise_multiplier: float = 1.0
    delta: float = 1e-5
    reports: Literal["withheld", "exact"] = "withheld"
    training: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.clipping_norm > 0, "clipping_norm", "above 0", self.clipping_norm)
        noise = self.noise_multiplier
        require(noise >= 0, "noise_multiplier", "at least 0", noise)
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)

    @property
    def inner(self) -> Client:
        """The training."""
        return self.training

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place, then move the parameters to where the noisy update leads.

        Raises:
            ValueError: where the training sends vectors beside the update: they have no noise.
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
        """Refuse statistics that would leave without noise, and what the training refuses."""
        if copy_buffers(model):
            return "statistics of BatchNorm would leave the client without noise"
        return super().cannot_train(model)

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Return one noisy update a round, at a sensitivity of twice the clipping norm."""
        rounds = Release(self.noise_multiplier / 2, count=int(memory.get(TAKEN, 0)))
        return Releases((rounds,), self.delta, "local")
