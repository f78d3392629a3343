"""Who does what in which round: who trains, who misbehaves, who does not turn up.

Everything is drawn by name, so that it is the same on every engine and known before a round.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from fl_sim.contracts import Client
from fl_sim.experiment import Experiment
from fl_sim.seeding import generator


@dataclass(frozen=True)
class Schedule:
    """The script of a run."""

    experiment: Experiment

    def chosen(self, number: int, able: list[int]) -> list[int]:
        """Return who is asked to train in round `number`, out of the clients with data."""
        rng = generator(self.experiment.seed, "round", number, "participation")
        order = torch.randperm(len(able), generator=rng)
        return sorted(able[i] for i in order[: self.experiment.clients_per_round].tolist())

    def absent(self, number: int, chosen: list[int]) -> dict[int, str]:
        """Return who of them does not deliver in time, and why."""
        return {}

    def protects(self, number: int) -> bool:
        """Return whether those who protect their images do so in round `number`."""
        return True

    def attackers(self, number: int) -> frozenset[int]:
        """Return the clients that misbehave in round `number`."""
        return self._pool

    def behaviour(self, client: int, number: int) -> Client:
        """Return how `client` trains in round `number`."""
        adversary = self.experiment.adversary
        if adversary is not None and client in self.attackers(number):
            return adversary.client
        return self.experiment.client

    @cached_property
    def _pool(self) -> frozenset[int]:
        adversary, count = self.experiment.adversary, self.experiment.data.num_clients
        drawn = torch.randperm(count, generator=generator(self.experiment.seed, "adversaries"))
        return frozenset(drawn[: adversary.num_clients if adversary else 0].tolist())
