"""Clients in turn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch

from fl_sim.samplers import Sampler


@final
@dataclass(frozen=True)
class Cyclic(Sampler):
    """Ask the available clients in turn, in the order of their numbers.

    Source: Cho et al. (2023), cyclic client participation, with single clients in place of groups,
    https://arxiv.org/abs/2302.03109.
    """

    def choose(
        self, round_num: int, available: Sequence[int], count: int, rng: torch.Generator
    ) -> Iterable[int]:
        """Return the next `count` clients, continuing with the first after the last."""
        first = (round_num - 1) * count
        size = min(count, len(available))
        return [available[(first + i) % len(available)] for i in range(size)]
