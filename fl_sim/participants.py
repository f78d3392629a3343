"""Participation and adversaries, as declared in an experiment; `Schedule` draws them."""

from dataclasses import dataclass
from typing import Literal

from fl_sim.contracts import Client
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.windows import (
    check_choice,
    check_window,
    covers,
    describe_rounds,
    name_clients,
)
from fl_sim.samplers import Sampler


@dataclass(frozen=True)
class AvailabilityWindow:
    """The rounds in which one client is available.

    Attributes:
        client: Number of the client, from 0.
        first_round: First round in which it is available.
        last_round: Last round in which it is available; None: until the end.
    """

    client: int
    first_round: int = 1
    last_round: int | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.client >= 0, "client", "the number of a client, from 0", self.client)
        check_window(self.first_round, self.last_round)

    def __str__(self) -> str:
        """Return the client and its rounds, for a table."""
        last = "the end" if self.last_round is None else self.last_round
        return f"client {self.client}, rounds {self.first_round} to {last}"

    def covers(self, round_num: int) -> bool:
        """Return whether the client is available in the round."""
        return covers(round_num, self.first_round, self.last_round)


Stay = AvailabilityWindow  # its name until version 0.2, by which JSON still names it


@dataclass(frozen=True)
class Absent:
    """Clients that are away for some rounds, and return.

    Attributes:
        clients: Numbers of the clients; empty: `num_clients` drawn by the seed.
        num_clients: Number of clients to draw; None: one, unless clients are named.
        first_round, last_round: First and last round without them; None: until the end.
    """

    clients: tuple[int, ...] = ()
    num_clients: int | None = None
    first_round: int = 1
    last_round: int | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        check_choice(self.clients, self.num_clients)
        check_window(self.first_round, self.last_round)

    def __str__(self) -> str:
        """Return the absence as a sentence."""
        count = 1 if self.num_clients is None else self.num_clients
        who, is_one = name_clients(self.clients, count)
        rounds = describe_rounds(self.first_round, self.last_round)
        return f"{who} {'is' if is_one else 'are'} away {rounds}"

    def is_active(self, round_num: int) -> bool:
        """Return whether the clients are away in the round."""
        return covers(round_num, self.first_round, self.last_round)


@dataclass(frozen=True)
class Participation:
    """Sampling of clients per round, and the reasons for which sampled clients fail.

    Attributes:
        clients_per_round: Number of clients sampled in each round; None: all.
        drop_out: Probability per round that a sampled client drops out.
        stays: Rounds in which clients are available; clients that are not named always are.
        speed_spread: Standard deviation of the logarithm of a client's time per round, drawn once
            per client; 0: all clients take the same time.
        deadline: Time that the server waits, in units of the median client's time; slower clients
            fail. None: the server waits for all.
        sampling: `fixed`, a uniformly random set of `clients_per_round` of the available clients
            with data; or `poisson`, each of them independently, with the probability that gives
            `clients_per_round` on average. A round may then have no clients, and leaves the model
            unchanged. Or a `Sampler`, which chooses at most `clients_per_round` of them; a private
            rule is then accounted for as if all clients took part in each round.
        absences: Rounds in which clients are away, however they are available otherwise.
    """

    clients_per_round: int | None = None
    drop_out: float = 0.0
    stays: tuple[AvailabilityWindow, ...] = ()
    speed_spread: float = 0.0
    deadline: float | None = None
    sampling: Literal["fixed", "poisson"] | Sampler = serialization.omit_if_default("fixed")
    absences: tuple[Absent, ...] = serialization.omit_if_default(())

    def __post_init__(self) -> None:
        serialization.check_types(self)
        count = self.clients_per_round
        require(count is None or count >= 1, "clients_per_round", "at least 1, or None", count)
        require(0 <= self.drop_out < 1, "drop_out", "in [0, 1)", self.drop_out)
        require(self.speed_spread >= 0, "speed_spread", "at least 0", self.speed_spread)
        waits = self.deadline is None or self.deadline > 0
        require(waits, "deadline", "above 0, or None to wait for all", self.deadline)

    def is_available(self, client: int, round_num: int) -> bool:
        """Return whether a client is available in the round."""
        stays = [stay for stay in self.stays if stay.client == client]
        return not stays or any(stay.covers(round_num) for stay in stays)


@dataclass(frozen=True)
class Adversary:
    """Malicious clients, with their attack and its rounds.

    Give one of `num_clients`, `share` and `clients`; without any, one client attacks. Attackers
    drawn by the seed are nested: a larger number includes the smaller, and several adversaries of
    an experiment share them. Several attacks in one client are stacked: the later wraps the
    earlier, and one that colludes wraps all others.

    Attributes:
        client: Behaviour of the attackers. If the field `honest` of an attack that wraps a client
            is at its default, the attack wraps the experiment's own client.
        num_clients: Number of attackers.
        share: Number of attackers as a share of the clients, rounded.
        clients: Numbers of the attackers.
        among: Clients that attackers are drawn from: `all`, those that protect their images
            (`protected`), or those that do not (`clean`).
        drawn: `once` per run, or anew in `each_round` from the sampled clients.
        first_round, last_round: First and last round of the attack; None: until the end. Equal
            rounds make a single-shot attack.
        every: Interval between attacks within these rounds, in rounds, from the first on.
        beside: Whether the attackers are additional clients without images: `num_clients` of
            them, with the next numbers, available in the rounds in which they attack. Those that
            collude do not train. For any other attack, the j-th attacker trains on a copy of the
            j-th client's images. Their weight is the average weight of honest clients.
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
        check_window(self.first_round, self.last_round)
        require(self.every >= 1, "every", "at least 1", self.every)
        counted = plain and share is None and not self.clients
        allowed = "false where attackers are drawn or chosen among those with images"
        require(counted or not self.beside, "beside", allowed, self.beside)

    def __str__(self) -> str:
        """Return the attack, its clients and its rounds, for a table."""
        attack, clients = str(serialization.label(self.client)), self._describe_clients()
        return ", ".join(part for part in (attack, clients, self._describe_rounds()) if part)

    def count(self, num_clients: int) -> int:
        """Return the number of attackers among `num_clients` clients."""
        if self.clients:
            return len(set(self.clients))
        if self.share is not None:
            return round(self.share * num_clients)
        return 1 if self.num_clients is None else self.num_clients

    def is_active(self, round_num: int) -> bool:
        """Return whether the attack is active in the round."""
        in_window = covers(round_num, self.first_round, self.last_round)
        return in_window and (round_num - self.first_round) % self.every == 0

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
