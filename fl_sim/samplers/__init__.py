"""Samplers that choose the clients of a round; each file of this package adds one."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch

from fl_sim.core.serialization import TypeChecked


class Sampler(TypeChecked, ABC):
    """A choice of the clients that are asked in a round, for `Participation.sampling`.

    It is a pure function: the same arguments give the same clients, on every engine and worker.
    """

    @abstractmethod
    def choose(
        self, round_num: int, available: Sequence[int], count: int, rng: torch.Generator
    ) -> Iterable[int]:
        """Return from 1 to `count` different clients out of `available`.

        Args:
            round_num: Number of the round, from 1.
            available: Clients with data that are available, in ascending order.
            count: The field `clients_per_round`.
            rng: Generator of the run's seed and this round.
        """
