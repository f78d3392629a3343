"""The layout of a protection: the images that carry noise, their owners, and the rounds.

A `Layout` draws the images by a share; clauses `Protects` name clients and rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from fl_sim.contracts import Protection
from fl_sim.core import serialization
from fl_sim.core.errors import FieldError, require
from fl_sim.core.perturbation import check_radius
from fl_sim.core.seeding import generator
from fl_sim.core.windows import (
    check_choice,
    check_window,
    conjugate,
    covers,
    describe_rounds,
    name_clients,
    name_numbers,
)

Provenance = Literal["shared", "owner", "client"]


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
    provenance: Provenance = "shared"
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

    def is_active(self, round_num: int) -> bool:
        """Return whether protected images carry their noise in the round."""
        return round_num >= self.first_round

    def list_clients(self, num_clients: int, seed: int) -> list[int]:
        """Return the clients that protect images; all, unless the unit is `clients`."""
        if self.unit != "clients":
            return list(range(num_clients))
        return list_protecting_order(num_clients, seed)[: self.count_protecting(num_clients)]

    def count_protecting(self, num_clients: int) -> int:
        """Return the number of clients that protect their images, if the unit is `clients`."""
        return round(self.fraction * num_clients)

    def _choose_first(self, count: int, seed: int, *labels: int) -> Bool[Tensor, " count"]:
        return _choose_share(count, self.fraction, seed, self.unit, *labels)


@dataclass(frozen=True)
class Protects:
    """The images that some clients protect, in some rounds, and their noise.

    Several clauses make a layout. Clients that are drawn are named by no clause, and each is drawn
    once. A client may protect in several clauses, with other noise in other rounds. The images of
    a smaller fraction are among those of a larger one, and are the same as those of a `Layout`.

    Attributes:
        clients: Numbers of the clients; empty: `num_clients` drawn by the seed, or all.
        num_clients: Number of clients to draw; None: those named, or all.
        fraction: Share of each client's images that it protects, in [0, 1].
        classes: Classes that the images are of; empty: all.
        first_round, last_round: First and last round with noise; None: until the end. In other
            rounds the images are trained on as they are.
        protection: Noise of these clients; None: the experiment's `protection`.
        radius: Radius of the noise, in [0, 1]; None: that of the protection.
        provenance: Origin of the noise: `shared`, made once on the images of all clients; `owner`,
            made on the images of these clients; `client`, made per client.
        withheld: If True, the images are left out in all rounds instead (the control A_clean).
    """

    clients: tuple[int, ...] = ()
    num_clients: int | None = None
    fraction: float = 1.0
    classes: tuple[int, ...] = ()
    first_round: int = 1
    last_round: int | None = None
    protection: Protection | None = None
    radius: float | None = None
    provenance: Provenance = "shared"
    withheld: bool = False

    def __post_init__(self) -> None:
        serialization.check_types(self)
        check_choice(self.clients, self.num_clients)
        require(0 <= self.fraction <= 1, "fraction", "between 0 and 1", self.fraction)
        valid = all(label >= 0 for label in self.classes)
        require(valid, "classes", "numbers of classes, from 0", self.classes)
        check_window(self.first_round, self.last_round)
        if self.radius is not None:
            check_radius(self.radius)
        self.make_protection(None)

    def __str__(self) -> str:
        """Return the clause as a sentence."""
        who, is_one = name_clients(self.clients, self.num_clients)
        share = "" if self.fraction == 1 else f"{100 * self.fraction:g} % of "
        words = [who, conjugate("leave out" if self.withheld else "protect", is_one)]
        words.append(f"{share}{'its' if is_one else 'their'} images")
        if self.classes:
            words.append(f"of {name_numbers('class', 'classes', self.classes)}")
        words.append(describe_rounds(self.first_round, self.last_round))
        if self.protection is not None:
            words.append(f"with {serialization.label(self.make_protection(None))}")
        elif self.radius is not None:
            words.append(f"with radius {255 * self.radius:g}/255")
        return " ".join(words)

    def is_active(self, round_num: int) -> bool:
        """Return whether the images carry their noise in the round."""
        return covers(round_num, self.first_round, self.last_round)

    def make_protection(self, usual: Protection | None) -> Protection | None:
        """Return the protection with the radius of this clause.

        Args:
            usual: The protection of clauses that have none of their own.

        Raises:
            FieldError: If the protection has no radius to set.
        """
        protection = self.protection or usual
        if protection is None or self.radius is None:
            return protection
        has_radius = "radius" in serialization.field_values(protection)
        allowed = "None for a protection without a radius"
        require(has_radius, "radius", allowed, self.radius)
        return replace(protection, radius=self.radius)  # type: ignore[type-var]

    def choose_protected(
        self,
        own: Sequence[int],
        clients: Int64[Tensor, " n"],
        members: Bool[Tensor, " n"],
        labels: Int64[Tensor, " n"],
        seed: int,
    ) -> Bool[Tensor, " n"]:
        """Return a boolean mask of the records that the clients `own` protect."""
        chosen = torch.zeros(len(clients), dtype=torch.bool)
        eligible = torch.isin(labels, torch.tensor(self.classes)) if self.classes else labels >= 0
        for client in own:
            for is_member in (True, False):
                kind = (clients == client) & (members == is_member) & eligible
                rows = kind.nonzero().squeeze(1)
                names = ("samples", client, int(is_member))
                chosen[rows] = _choose_share(len(rows), self.fraction, seed, *names)
        return chosen


def assign_clauses(
    clauses: Sequence[Protects], num_clients: int, seed: int
) -> list[tuple[int, ...]]:
    """Return the clients of each clause: those named, those drawn, or all.

    Raises:
        FieldError: Naming the place of the clause, for unknown clients and too many drawn.
    """
    named = {client for clause in clauses for client in clause.clients}
    free = [client for client in list_protecting_order(num_clients, seed) if client not in named]
    assigned = []
    for place, clause in enumerate(clauses):
        unknown = [client for client in clause.clients if client >= num_clients]
        allowed = f"numbers below data.num_clients = {num_clients}"
        require(not unknown, f"{place}.clients", allowed, clause.clients)
        count = clause.num_clients
        if clause.clients:
            assigned.append(clause.clients)
        elif count is None:
            assigned.append(tuple(range(num_clients)))
        else:
            allowed = f"at most {len(free)} clients that no clause names or draws"
            require(count <= len(free), f"{place}.num_clients", allowed, count)
            assigned.append(tuple(sorted(free[:count])))
            free = free[count:]
    return assigned


def refuse_overlaps(
    clauses: Sequence[Protects], assigned: Sequence[tuple[int, ...]], usual: Protection | None
) -> None:
    """Refuse two kinds of noise for images of one client in one round.

    Raises:
        FieldError: Naming the place of the later clause.
    """
    for place, (clause, own) in enumerate(zip(clauses, assigned, strict=True)):
        for before, others in zip(clauses[:place], assigned, strict=False):
            shared = sorted({*own} & {*others})
            first = max(clause.first_round, before.first_round)
            meet = clause.is_active(first) and before.is_active(first)
            one, two = set(clause.classes), set(before.classes)
            same_images = not one or not two or one & two
            same_noise = _describe_noise(clause, usual) == _describe_noise(before, usual)
            used = clause.fraction > 0 and before.fraction > 0
            if used and shared and meet and same_images and not same_noise:
                allowed = "one kind of noise for a client in a round"
                raise FieldError(
                    f"{place}", allowed, f"two for client {shared[0]} in round {first}"
                )


def _describe_noise(clause: Protects, usual: Protection | None) -> tuple[object, ...]:
    owners = clause.clients if clause.provenance == "owner" else ()
    return clause.make_protection(usual), clause.provenance, owners


def list_protecting_order(num_clients: int, seed: int) -> list[int]:
    """Return the clients in the order in which a growing fraction of them protects."""
    return [int(client) for client in _shuffle(num_clients, seed, "clients")]


def _choose_share(
    count: int, fraction: float, seed: int, *labels: str | int
) -> Bool[Tensor, " count"]:
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[_shuffle(count, seed, *labels)[: round(fraction * count)]] = True
    return chosen


def _shuffle(count: int, seed: int, *labels: str | int) -> Int64[Tensor, " count"]:
    return torch.randperm(count, generator=generator(seed, "layout", *labels))
