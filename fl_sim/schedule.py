"""Who does what in which round: who is asked, who misbehaves, who does not deliver.

Everything is drawn by name, so that it is the same on every engine and known before a round.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Client, ColludingClient, Draw
from fl_sim.core.errors import FieldError, require
from fl_sim.core.seeding import generator
from fl_sim.data.layout import list_protecting_order
from fl_sim.experiment import Experiment
from fl_sim.participants import Adversary
from fl_sim.triggers import Backdoor

LATE = "past the deadline"
DROPPED_OUT = "dropped out"


@dataclass(frozen=True)
class Schedule:
    """The script of a run."""

    experiment: Experiment

    def choose_clients(self, round_num: int, holders: list[int]) -> list[int]:
        """Return who is asked to train in round `number`, out of the clients with data."""
        if self.experiment.participation.sampling == "poisson":
            return self._draw_poisson(round_num, holders)
        there = set(holders)
        asked = (client for client in self._list_available(round_num) if client in there)
        return sorted(islice(asked, self.experiment.clients_per_round))

    def describe_draw(self, round_num: int, holders: list[int]) -> Draw:
        """Return how those who are asked in round `number` are drawn.

        Only clients that are there and have data can be; whether they deliver comes later.
        """
        participation, eligible = self.experiment.participation, len(holders)
        if participation.stays or self.extra_attackers:
            eligible = len(self._select_available(round_num, holders))
        return Draw(eligible, self.experiment.clients_per_round, participation.sampling)

    def _draw_poisson(self, round_num: int, holders: list[int]) -> list[int]:
        """Ask each client that is there with the same probability, whoever else is asked."""
        rng = generator(self.experiment.seed, "round", round_num, "participation")
        lots = torch.rand(self.experiment.num_clients, generator=rng, dtype=torch.float64)
        rate, there = (
            self.describe_draw(round_num, holders).rate,
            self._select_available(round_num, holders),
        )
        return sorted(client for client in there if float(lots[client]) < rate)

    def _select_available(self, round_num: int, clients: Iterable[int]) -> list[int]:
        """Return those of the clients that take part in round `number` at all, in their order."""
        participation = self.experiment.participation
        idle = {
            client
            for a, who in self.extra_attackers
            if not a.is_active(round_num)
            for client in who
        }
        return [c for c in clients if c not in idle and participation.is_available(c, round_num)]

    def find_absent(self, round_num: int, chosen: list[int]) -> dict[int, str]:
        """Return who of them does not deliver in time, and why."""
        causes = ((client, self._absence_cause(client, round_num)) for client in chosen)
        return {client: cause for client, cause in causes if cause}

    def attackers(self, round_num: int) -> frozenset[int]:
        """Return the clients that misbehave in round `number`."""
        return frozenset().union(*(own for _, own in self._active_adversaries(round_num)))

    def behaviour(self, client: int, round_num: int) -> Client:
        """Return how `client` trains in round `number`."""
        return _stack_attacks(self.attacks_of(client, round_num), self.experiment.client)

    def protects(self, round_num: int) -> bool:
        """Say whether the protected images are trained on as protected in round `number`."""
        return round_num >= self.experiment.layout.first_round

    def attacks_of(self, client: int, round_num: int) -> tuple[Client, ...]:
        """Return the attacks that `client` runs in round `number`, the innermost first."""
        own = [
            adversary.client
            for adversary, who in self._active_adversaries(round_num)
            if client in who
        ]
        return tuple(sorted(own, key=lambda attack: isinstance(attack, ColludingClient)))

    def check(self, fewest: int = 1) -> None:
        """Raise a `FieldError` for a round that cannot be played.

        Args:
            fewest: clients with which a round can be aggregated.
        """
        experiment = self.experiment
        changing = experiment.participation.stays or experiment.adversaries
        stacks: set[tuple[Client, ...]] = set()
        for round_num in range(1, experiment.rounds + 1 if changing else 2):
            self._check_availability(round_num, fewest)
            stacks |= {self.attacks_of(client, round_num) for client in self.attackers(round_num)}
        for stack in stacks:
            attack = _stack_attacks(stack, self.experiment.client)
            whole = [each for _, each in attack.walk("adversary.client")]
            names = [type(each).__name__ for each in whole]
            if any(isinstance(each, ColludingClient) for each in whole[1:]):
                allowed = "an attack that colludes around all others, and one at most in a client"
                raise FieldError("adversary", allowed, " around ".join(names))

    def _check_availability(self, round_num: int, fewest: int) -> None:
        """Refuse a round for which too few are there, or deliver in time."""
        present = self._list_available(round_num)
        if not present:
            allowed = "somebody there in every round"
            raise FieldError("participation.stays", allowed, f"nobody in round {round_num}")
        allowed = f"at least {fewest} clients in every round"
        got = f"{len(present)} in round {round_num}"
        require(len(present) >= fewest, "participation.stays", allowed, got)
        deadline = self.experiment.participation.deadline
        if deadline is not None:
            count = sum(float(self.times[client]) <= deadline for client in present)
            allowed = f"at least {fewest} clients in time in every round"
            got = f"{count} in round {round_num}"
            require(count >= fewest, "participation.deadline", allowed, got)

    def _list_available(self, round_num: int) -> list[int]:
        """Return whoever takes part in the round, in the order in which they are asked."""
        rng = generator(self.experiment.seed, "round", round_num, "participation")
        order = torch.randperm(self.experiment.num_clients, generator=rng).tolist()
        return self._select_available(round_num, order)

    def _absence_cause(self, client: int, round_num: int) -> str:
        participation, labels = (
            self.experiment.participation,
            ("round", round_num, "client", client),
        )
        if participation.drop_out > 0:
            rng = generator(self.experiment.seed, *labels, "drop-out")
            if float(torch.rand((), generator=rng)) < participation.drop_out:
                return DROPPED_OUT
        deadline = participation.deadline
        return LATE if deadline is not None and float(self.times[client]) > deadline else ""

    @cached_property
    def times(self) -> Float[Tensor, " k"]:
        """How long a round takes each client, in units of the median client's time."""
        rng = generator(self.experiment.seed, "speed")
        drawn = torch.randn(self.experiment.num_clients, generator=rng, dtype=torch.float64)
        times = (self.experiment.participation.speed_spread * drawn).exp()
        return times / times.quantile(0.5)

    def _active_adversaries(self, round_num: int) -> list[tuple[Adversary, frozenset[int]]]:
        """Return the adversaries of a round, each with its clients."""
        if round_num not in self._active_by_round:
            drawn = [
                a for a in self.experiment.adversaries if a.is_active(round_num) and not a.beside
            ]
            self._active_by_round[round_num] = [
                (
                    a,
                    self._draw_for_round(a, round_num)
                    if a.drawn == "each_round"
                    else self._fixed_attackers[a],
                )
                for a in drawn
            ] + [(a, frozenset(who)) for a, who in self.extra_attackers if a.is_active(round_num)]
        return self._active_by_round[round_num]

    @cached_property
    def extra_attackers(self) -> list[tuple[Adversary, range]]:
        """The adversaries beside the clients that share the images, each with its numbers."""
        found, first = [], self._num_holders
        for adversary in self.experiment.adversaries:
            if adversary.beside:
                found.append((adversary, range(first, first + adversary.count(0))))
                first = found[-1][1].stop
        return found

    @cached_property
    def _active_by_round(self) -> dict[int, list[tuple[Adversary, frozenset[int]]]]:
        """What was drawn already: it is asked for client by client."""
        return {}

    @cached_property
    def _fixed_attackers(self) -> dict[Adversary, frozenset[int]]:
        """The clients of each adversary that are the same in all its rounds."""
        fixed = [a for a in self.experiment.adversaries if a.drawn == "once" and not a.beside]
        return {a: self._draw_attackers(a) for a in fixed}

    def _draw_attackers(self, adversary: Adversary) -> frozenset[int]:
        """Draw from one end or the other of the order of protection, or from an order of its own.

        So the same clients attack whatever the fraction that protects, and in the controls.
        """
        if adversary.clients:
            return frozenset(adversary.clients)
        seed, count = self.experiment.seed, self._num_holders
        order = list_protecting_order(count, seed)
        if adversary.among == "all":
            order = torch.randperm(count, generator=generator(seed, "adversaries")).tolist()
        elif adversary.among == "clean":
            order.reverse()
        return frozenset(order[: adversary.count(count)])

    def _draw_for_round(self, adversary: Adversary, round_num: int) -> frozenset[int]:
        asked = self.choose_clients(round_num, list(range(self.experiment.num_clients)))
        asked = [client for client in asked if client < self._num_holders]
        rng = generator(self.experiment.seed, "round", round_num, "adversaries")
        order = torch.randperm(len(asked), generator=rng)[: adversary.count(len(asked))]
        return frozenset(asked[i] for i in order.tolist())

    @property
    def _num_holders(self) -> int:
        return self.experiment.data.num_clients


def backdoors(experiment: Experiment) -> list[Backdoor]:
    """Return the trigger and the target class of every backdoor, each once."""
    parts = [part for a in experiment.adversaries for _, part in a.client.walk("adversary.client")]
    planted = [part.backdoor() for part in parts]
    return list(dict.fromkeys(backdoor for backdoor in planted if backdoor is not None))


def _stack_attacks(attacks: tuple[Client, ...], honest: Client) -> Client:
    """Put attacks around a client, the first innermost."""
    for i, attack in enumerate(attacks):
        honest = attack.rewrap(honest, always=i > 0)
    return honest
