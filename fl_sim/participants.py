"""Who takes part and who misbehaves, as an experiment declares it; `Schedule` carries it out."""

from dataclasses import dataclass
from typing import Literal

from fl_sim.contracts import Client
from fl_sim.core import serialization
from fl_sim.core.errors import require


@dataclass(frozen=True)
class AvailabilityWindow:
    """The rounds in which one client is there; outside them nobody asks it.

    Attributes:
        client: its number.
        first_round: in which it arrives.
        last_round: after which it departs; None: it stays to the end.
    """

    client: int
    first_round: int = 1
    last_round: int | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.client >= 0, "client", "the number of a client, from 0", self.client)
        _check_window(self.first_round, self.last_round)

    def __str__(self) -> str:
        """Return who is there when, for a table."""
        last = "the end" if self.last_round is None else self.last_round
        return f"client {self.client}, rounds {self.first_round} to {last}"

    def covers(self, round_num: int) -> bool:
        """Say whether the client is there in round `number`."""
        return _covers(round_num, self.first_round, self.last_round)


@dataclass(frozen=True)
class Participation:
    """Who is asked in a round, and who of them delivers in time.

    Attributes:
        clients_per_round: how many are asked, drawn anew each round; None: everybody.
        drop_out: probability that a client that was asked does not deliver, round by round.
        stays: when clients arrive and depart; whoever is not named is always there.
        speed_spread: how unequal clients are in speed: standard deviation of the logarithm of
            the time that a round takes them. Drawn once a client; 0: all take the same time.
        deadline: how long the server waits, in units of the median client's time; who takes
            longer does not deliver. None: the server waits for everybody.
        sampling: `fixed`, a set of `clients_per_round` of those that are there and hold data,
            each set as likely as any other; or `poisson`, each of them by itself, with the
            probability at which `clients_per_round` are asked on average. Nobody may be drawn
            for a round, which then leaves the model as it is.
    """

    clients_per_round: int | None = None
    drop_out: float = 0.0
    stays: tuple[AvailabilityWindow, ...] = ()
    speed_spread: float = 0.0
    deadline: float | None = None
    sampling: Literal["fixed", "poisson"] = serialization.omit_if_default("fixed")

    def __post_init__(self) -> None:
        serialization.check_types(self)
        count = self.clients_per_round
        require(count is None or count >= 1, "clients_per_round", "at least 1, or None", count)
        require(0 <= self.drop_out < 1, "drop_out", "in [0, 1)", self.drop_out)
        require(self.speed_spread >= 0, "speed_spread", "at least 0", self.speed_spread)
        waits = self.deadline is None or self.deadline > 0
        require(waits, "deadline", "above 0, or None to wait for everybody", self.deadline)

    def is_available(self, client: int, round_num: int) -> bool:
        """Say whether `client` takes part at all in round `number`."""
        stays = [stay for stay in self.stays if stay.client == client]
        return not stays or any(stay.covers(round_num) for stay in stays)


@dataclass(frozen=True)
class Adversary:
    """Clients that misbehave: how, which ones, and in which rounds.

    Give one of `num_clients`, `share` and `clients`; without any, one client attacks. Clients
    that the seed draws are nested: a larger number has the same ones and others, and several
    adversaries of an experiment share them. Attacks that meet in one client are stacked: the
    later wraps the earlier, and one that colludes wraps all others.

    Attributes:
        client: how they behave. Where `honest`, what it wraps, is left at its default, it is
            the experiment's own client.
        num_clients: how many of them there are.
        share: how many, as a share of the clients, rounded.
        clients: which ones, by number.
        among: whom they are drawn from: `all`, those that protect their images (`protected`),
            or those that do not (`clean`).
        drawn: `once` for the run, or `each_round` anew, out of those that are asked.
        first_round, last_round: when they attack, both included; None: to the end. The same
            round twice is a single shot.
        every: in every how many rounds of that window, beginning with its first.
        beside: they come beside the clients that share the images, and hold none of their own:
            `num_clients` of them, with the next numbers, there in the rounds in which they
            attack. Those that collude do not train. Any other attack is carried out on a copy of
            an honest client's images, the j-th attacker's on those of the j-th client. They
            weigh as much as honest clients do on average.
    """

    client: Client
    num_clients: int | None = None
    share: float | None = None
    clients: tuple[int, ...] = ()
    among: Literal["all", "protected", "clean"] = "all"
    drawn: Literal["once", "each_round"] = "once"
    first_round: int = 1
    last_round: int | None = None
    every: int = 1
    beside: bool = serialization.omit_if_default(False)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        count, share = self.num_clients, self.share
        require(count is None or count >= 0, "num_clients", "at least 0", count)
        require(share is None or 0 <= share <= 1, "share", "between 0 and 1", share)
        require(all(c >= 0 for c in self.clients), "clients", "numbers from 0", self.clients)
        given = {"num_clients": count, "share": share, "clients": self.clients or None}
        given = {name: value for name, value in given.items() if value is not None}
        require(len(given) <= 1, "clients", "one of num_clients, share and clients", given)
        plain = self.among == "all" and self.drawn == "once"
        require(plain or not self.clients, "clients", "none where they are drawn", self.clients)
        fixed = self.among == "all" or self.drawn == "once"
        require(fixed, "among", "'all' where clients are drawn each round", self.among)
        _check_window(self.first_round, self.last_round)
        require(self.every >= 1, "every", "at least 1", self.every)
        counted = plain and share is None and not self.clients
        allowed = "false where attackers are drawn or chosen among those with images"
        require(counted or not self.beside, "beside", allowed, self.beside)

    def __str__(self) -> str:
        """Return who does what when, for a table."""
        parts = [
            str(serialization.label(self.client)),
            self._describe_clients(),
            self._describe_rounds(),
        ]
        return ", ".join(part for part in parts if part)

    def count(self, num_clients: int) -> int:
        """Return how many clients attack, out of `num_clients`."""
        if self.clients:
            return len(set(self.clients))
        if self.share is not None:
            return round(self.share * num_clients)
        return 1 if self.num_clients is None else self.num_clients

    def is_active(self, round_num: int) -> bool:
        """Say whether round `number` is one of theirs."""
        there = _covers(round_num, self.first_round, self.last_round)
        return there and (round_num - self.first_round) % self.every == 0

    def _describe_clients(self) -> str:
        if self.beside:
            return f"{self.count(0)} beside the honest clients"
        group = "clients" if self.among == "all" else f"{self.among} clients"
        anew = " anew each round" if self.drawn == "each_round" else ""
        if self.clients:
            return f"clients {' and '.join(map(str, self.clients))}"
        if self.share is not None:
            return f"{100 * self.share:g} % of the {group}{anew}"
        return f"{self.count(0)} {group}{anew}" if self.count(0) != 1 else f"1 {group[:-1]}{anew}"

    def _describe_rounds(self) -> str:
        every = f"every {self.every} rounds" if self.every > 1 else ""
        if self.last_round == self.first_round:
            return f"round {self.first_round}"
        if self.last_round is not None:
            return f"rounds {self.first_round} to {self.last_round} {every}".strip()
        return f"from round {self.first_round} {every}".strip() if self.first_round > 1 else every


def _covers(round_num: int, first: int, last: int | None) -> bool:
    return first <= round_num and (last is None or round_num <= last)


def _check_window(first: int, last: int | None) -> None:
    require(first >= 1, "first_round", "at least 1", first)
    fits = last is None or last >= first
    require(fits, "last_round", f"at least first_round = {first}, or None", last)
