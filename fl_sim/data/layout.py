"""Who protects what: the subset of images that carries noise."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator


@dataclass(frozen=True)
class Layout:
    """Which images are protected, and with whose noise.

    For one seed the subsets are nested: what is protected at a fraction is also protected at
    every larger one.

    Attributes:
        fraction: share that is protected, 0 to 1.
        unit: share of what: of each client's `samples`, of the `clients`, of the `classes`.
        provenance: whose noise it is: `shared`, one made on everybody's images; `owner`, one a
            group of clients, made on theirs; `client`, each client's own, made on its own.
        num_owners: groups of clients, where provenance is `owner`; of equal size, or nearly.
        withheld: leave the chosen images out instead of protecting them (the control A_clean).
        first_round: from which on they are protected; before, they are trained on as they are.
    """

    fraction: float = 0.0
    unit: Literal["samples", "clients", "classes"] = "samples"
    provenance: Literal["shared", "owner", "client"] = "shared"
    num_owners: int = 2
    withheld: bool = False
    first_round: int = 1

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(0 <= self.fraction <= 1, "fraction", "between 0 and 1", self.fraction)
        require(self.first_round >= 1, "first_round", "at least 1", self.first_round)
        require(self.num_owners >= 1, "num_owners", "at least 1", self.num_owners)

    def assign_owners(self, num_clients: int, seed: int) -> Int64[Tensor, " k"]:
        """Return who makes each client's noise: everybody together is owner 0."""
        if self.provenance == "shared":
            return torch.zeros(num_clients, dtype=torch.int64)
        if self.provenance == "client":
            return torch.arange(num_clients)
        return _shuffle(num_clients, seed, "owners") % self.num_owners

    def choose_protected(
        self,
        clients: Int64[Tensor, " n"],
        members: Bool[Tensor, " n"],
        labels: Int64[Tensor, " n"],
        num_clients: int,
        num_classes: int,
        seed: int,
    ) -> Bool[Tensor, " n"]:
        """Return the protected subset of the pool.

        Members and outsiders of a client are chosen alike, each by the same share, so that
        both kinds exist in every protected stratum.
        """
        if self.fraction == 0:
            return torch.zeros(len(clients), dtype=torch.bool)
        if self.unit == "clients":
            return self._choose_first(num_clients, seed)[clients]
        if self.unit == "classes":
            return self._choose_first(num_classes, seed)[labels]
        chosen = torch.zeros(len(clients), dtype=torch.bool)
        for client in range(num_clients):
            for is_member in (True, False):
                own = ((clients == client) & (members == is_member)).nonzero().squeeze(1)
                chosen[own] = self._choose_first(len(own), seed, client, int(is_member))
        return chosen

    def count_protecting(self, num_clients: int) -> int:
        """Return how many clients protect their images, where the unit is `clients`."""
        return round(self.fraction * num_clients)

    def _choose_first(self, count: int, seed: int, *labels: int) -> Bool[Tensor, " count"]:
        order = _shuffle(count, seed, self.unit, *labels)
        chosen = torch.zeros(count, dtype=torch.bool)
        chosen[order[: round(self.fraction * count)]] = True
        return chosen


def list_protecting_order(num_clients: int, seed: int) -> list[int]:
    """Return the clients in the order in which a growing fraction of them protects."""
    return [int(client) for client in _shuffle(num_clients, seed, "clients")]


def _shuffle(count: int, seed: int, *labels: str | int) -> Int64[Tensor, " count"]:
    return torch.randperm(count, generator=generator(seed, "layout", *labels))
