"""The layout of a protection: the subset of images that carries noise, and its owners."""

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
    """The choice of the protected images, and of the owners that make their noise.

    For one seed the subsets are nested: an image that is protected at one fraction is protected
    at every larger one.

    Attributes:
        fraction: Share that is protected, in [0, 1].
        unit: Unit of the share: each client's `samples`, the `clients`, or the `classes`.
        provenance: Origin of the noise: `shared`, made once on the images of all clients;
            `owner`, made per group of clients on the group's images; `client`, made per client.
        num_owners: Number of groups, equal in size up to one, if the provenance is `owner`.
        withheld: If True, the chosen images are left out instead (the control A_clean).
        first_round: First round with noise; before it, the images are trained on as they are.
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
        """Return the owner that makes each client's noise; shared noise has owner 0."""
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
        """Return a boolean mask of the protected records.

        The same share of a client's members and non-members is chosen, so that every protected
        stratum holds both.
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
                rows = ((clients == client) & (members == is_member)).nonzero().squeeze(1)
                chosen[rows] = self._choose_first(len(rows), seed, client, int(is_member))
        return chosen

    def count_protecting(self, num_clients: int) -> int:
        """Return the number of clients that protect their images, if the unit is `clients`."""
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
