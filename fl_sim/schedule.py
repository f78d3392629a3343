"""Draws the participants, attackers and absent clients of every round.

Generators are named by round and client, so the schedule is the same on every engine and is known
before a round.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import NO_SAMPLING, Client, ColludingClient, Draw
from fl_sim.core.errors import FieldError, RunFailedError, require, shorten
from fl_sim.core.seeding import generator
from fl_sim.data.layout import list_protecting_order
from fl_sim.experiment import Experiment
from fl_sim.participants import Absent, Adversary
from fl_sim.samplers import Sampler
from fl_sim.triggers import Backdoor

LATE = "past the deadline"
DROPPED_OUT = "dropped out"


@dataclass(frozen=True)
class Schedule:
    """The participants of each round of an experiment, and their behaviour."""

    experiment: Experiment

    def choose_clients(self, round_num: int, holders: list[int]) -> list[int]:
        """Return the clients that are asked to train in the round, out of `holders`, in order."""
        if self.experiment.participation.sampling == "poisson":
            return self._draw_poisson(round_num, holders)
        if isinstance(self.experiment.participation.sampling, Sampler):
            return self._ask_sampler(self.experiment.participation.sampling, round_num, holders)
        eligible = set(holders)
        asked = (client for client in self._list_available(round_num) if client in eligible)
        return sorted(islice(asked, self.experiment.clients_per_round))

    def describe_draw(self, round_num: int, holders: list[int]) -> Draw:
        """Return the sampling of the round, whose eligible clients are available and hold data."""
        participation, eligible = self.experiment.participation, len(holders)
        if isinstance(participation.sampling, Sampler):
            return NO_SAMPLING
        if participation.stays or participation.absences or self.extra_attackers:
            eligible = len(self._select_available(round_num, holders))
        return Draw(eligible, self.experiment.clients_per_round, participation.sampling)

    def _ask_sampler(self, sampler: Sampler, round_num: int, holders: list[int]) -> list[int]:
        """Return the clients that a sampler chooses.

        Raises:
            RunFailedError: For anything but available clients, each at most once.
        """
        count, name = self.experiment.clients_per_round, type(sampler).__name__
        available = sorted(self._select_available(round_num, holders))
        rng = generator(self.experiment.seed, "round", round_num, "participation")
        try:
            chosen = sorted(sampler.choose(round_num, tuple(available), count, rng))
        except Exception as error:  # of any class: it is a plug-in
            cause = f"{name} raised {type(error).__name__}: {error}"
            raise RunFailedError(f"round {round_num}: {cause}") from error
        if not set(chosen) <= set(available) or not 1 <= len(set(chosen)) == len(chosen) <= count:
            words = f"from 1 to {count} different clients of {shorten(available)}"
            raise RunFailedError(
                f"round {round_num}: {name} chose {shorten(chosen)}; wanted {words}"
            )
        return chosen

    def _draw_poisson(self, round_num: int, holders: list[int]) -> list[int]:
        """Draw each available client independently, with the same probability."""
        rng = generator(self.experiment.seed, "round", round_num, "participation")
        lots = torch.rand(self.experiment.num_clients, generator=rng, dtype=torch.float64)
        rate = self.describe_draw(round_num, holders).rate
        available = self._select_available(round_num, holders)
        return sorted(client for client in available if float(lots[client]) < rate)

    def _select_available(self, round_num: int, clients: Iterable[int]) -> list[int]:
        """Return the given clients that are available in the round, in their order."""
        participation = self.experiment.participation
        inactive = [ids for a, ids in self.extra_attackers if not a.is_active(round_num)]
        idle = {client for ids in inactive for client in ids} | self.away(round_num)
        return [c for c in clients if c not in idle and participation.is_available(c, round_num)]

    def list_unavailable(self, round_num: int, clients: Iterable[int]) -> list[int]:
        """Return the given clients that are not available in the round, in their order."""
        asked = list(clients)
        available = set(self._select_available(round_num, asked))
        return [client for client in asked if client not in available]

    def away(self, round_num: int) -> frozenset[int]:
        """Return the clients that an absence keeps away in the round."""
        return frozenset().union(*(ids for a, ids in self._absences if a.is_active(round_num)))

    @cached_property
    def _absences(self) -> list[tuple[Absent, frozenset[int]]]:
        """Absences, each with its clients; those that are drawn are named by no absence."""
        experiment, drawn = self.experiment, list[tuple[Absent, frozenset[int]]]()
        absences = experiment.participation.absences
        named = {client for absence in absences for client in absence.clients}
        rng = generator(experiment.seed, "absences")
        order = torch.randperm(self._num_holders, generator=rng).tolist()
        free = iter(client for client in order if client not in named)
        for absence in absences:
            count = 1 if absence.num_clients is None else absence.num_clients
            drawn.append((absence, frozenset(absence.clients or islice(free, count))))
        return drawn

    def find_absent(self, round_num: int, chosen: list[int]) -> dict[int, str]:
        """Return the cause for each chosen client that drops out or misses the deadline."""
        causes = ((client, self._absence_cause(client, round_num)) for client in chosen)
        return {client: cause for client, cause in causes if cause}

    def attackers(self, round_num: int) -> frozenset[int]:
        """Return the clients that attack in the round."""
        return frozenset().union(*(ids for _, ids in self._active_adversaries(round_num)))

    def behaviour(self, client: int, round_num: int) -> Client:
        """Return the behaviour of a client in the round: honest, or its stacked attacks."""
        return _stack_attacks(self.attacks_of(client, round_num), self.experiment.client)

    def find_image_changes(self) -> dict[tuple[int, Client, tuple[int, ...]], int]:
        """Return the clients that change their images, with the first round of each change.

        A key is a client, its behaviour, and the clauses whose noise images carry.
        """
        experiment = self.experiment
        of_all = experiment.client.changes_images
        if not of_all and not any(a.client.changes_images for a in experiment.adversaries):
            return {}
        changes: dict[tuple[int, Client, tuple[int, ...]], int] = {}
        for round_num in range(1, experiment.rounds + 1):
            for client in range(experiment.num_clients) if of_all else self.attackers(round_num):
                behaviour = self.behaviour(client, round_num)
                if behaviour.changes_images:
                    key = (client, behaviour, self.active_clauses(round_num))
                    changes.setdefault(key, round_num)
        return changes

    def active_clauses(self, round_num: int) -> tuple[int, ...]:
        """Return the places of the clauses of the layout whose images carry noise in the round."""
        clauses = enumerate(self.experiment.clauses)
        return tuple(place for place, clause in clauses if clause.is_active(round_num))

    def attacks_of(self, client: int, round_num: int) -> tuple[Client, ...]:
        """Return the attacks of a client in the round, innermost first."""
        attacks = [a.client for a, ids in self._active_adversaries(round_num) if client in ids]
        return tuple(sorted(attacks, key=lambda attack: isinstance(attack, ColludingClient)))

    def check(self, count_needed: Callable[[int], int] = lambda round_num: 1) -> None:
        """Raise a `FieldError` for a round that cannot be run.

        Args:
            count_needed: Returns the fewest clients with which a round can be aggregated.
        """
        experiment = self.experiment
        plan = experiment.participation
        changing = plan.stays or plan.absences or experiment.adversaries
        stacks: set[tuple[Client, ...]] = set()
        for round_num in range(1, experiment.rounds + 1 if changing else 2):
            self._check_availability(round_num, count_needed(round_num))
            stacks |= {self.attacks_of(client, round_num) for client in self.attackers(round_num)}
        for stack in stacks:
            attack = _stack_attacks(stack, self.experiment.client)
            whole = [each for _, each in attack.walk("adversary.client")]
            names = [type(each).__name__ for each in whole]
            if any(isinstance(each, ColludingClient) for each in whole[1:]):
                allowed = "an attack that colludes around all others, and one at most in a client"
                raise FieldError("adversary", allowed, " around ".join(names))

    def _check_availability(self, round_num: int, fewest: int) -> None:
        """Refuse a round with too few clients that are available and fast enough."""
        present = self._list_available(round_num)
        field = "absences" if self.experiment.participation.absences else "stays"
        path = f"participation.{field}"
        if not present:
            allowed = "a client available in every round"
            raise FieldError(path, allowed, f"none in round {round_num}")
        allowed = f"at least {fewest} clients in every round"
        got = f"{len(present)} in round {round_num}"
        require(len(present) >= fewest, path, allowed, got)
        deadline = self.experiment.participation.deadline
        if deadline is not None:
            count = sum(float(self.times[client]) <= deadline for client in present)
            allowed = f"at least {fewest} clients in time in every round"
            got = f"{count} in round {round_num}"
            require(count >= fewest, "participation.deadline", allowed, got)

    def _list_available(self, round_num: int) -> list[int]:
        """Return the available clients in the random order in which they are asked."""
        rng = generator(self.experiment.seed, "round", round_num, "participation")
        order = torch.randperm(self.experiment.num_clients, generator=rng).tolist()
        return self._select_available(round_num, order)

    def _absence_cause(self, client: int, round_num: int) -> str:
        participation = self.experiment.participation
        labels = ("round", round_num, "client", client)
        if participation.drop_out > 0:
            rng = generator(self.experiment.seed, *labels, "drop-out")
            if float(torch.rand((), generator=rng)) < participation.drop_out:
                return DROPPED_OUT
        deadline = participation.deadline
        return LATE if deadline is not None and float(self.times[client]) > deadline else ""

    @cached_property
    def times(self) -> Float[Tensor, " k"]:
        """Time per round of each client, in units of the median client's time."""
        rng = generator(self.experiment.seed, "speed")
        drawn = torch.randn(self.experiment.num_clients, generator=rng, dtype=torch.float64)
        times = (self.experiment.participation.speed_spread * drawn).exp()
        return times / times.quantile(0.5)

    def _active_adversaries(self, round_num: int) -> list[tuple[Adversary, frozenset[int]]]:
        """Return the adversaries that are active in the round, each with its clients."""
        if round_num not in self._active_by_round:
            active = [a for a in self.experiment.adversaries if a.is_active(round_num)]
            fixed, drawn = self._fixed_attackers, [a for a in active if not a.beside]
            self._active_by_round[round_num] = [
                (a, fixed[a] if a.drawn == "once" else self._draw_for_round(a, round_num))
                for a in drawn
            ] + [(a, frozenset(ids)) for a, ids in self.extra_attackers if a in active]
        return self._active_by_round[round_num]

    @cached_property
    def extra_attackers(self) -> list[tuple[Adversary, range]]:
        """Adversaries that are additional clients, each with its client numbers."""
        extra, first = [], self._num_holders
        for adversary in self.experiment.adversaries:
            if adversary.beside:
                extra.append((adversary, range(first, first + adversary.count(0))))
                first = extra[-1][1].stop
        return extra

    @cached_property
    def _active_by_round(self) -> dict[int, list[tuple[Adversary, frozenset[int]]]]:
        """Cache of active adversaries by round, since it is read once per client."""
        return {}

    @cached_property
    def _fixed_attackers(self) -> dict[Adversary, frozenset[int]]:
        """Clients of each adversary whose clients are the same in all its rounds."""
        fixed = [a for a in self.experiment.adversaries if a.drawn == "once" and not a.beside]
        return {a: self._draw_attackers(a) for a in fixed}

    def _draw_attackers(self, adversary: Adversary) -> frozenset[int]:
        """Return the clients of an adversary that are drawn once per run.

        Protected and clean attackers are taken from the two ends of the order of protection, so
        the same clients attack for every protected fraction, and in the controls.
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


def inherited_backdoor(experiment: Experiment) -> Backdoor | None:
    """Return the backdoor of the start model, or None."""
    model = experiment.model
    return model.planted.backdoor() if model.init == "planted" and model.planted else None


def backdoors(experiment: Experiment) -> list[Backdoor]:
    """Return the distinct backdoors of the start model and of all adversaries."""
    parts = [part for a in experiment.adversaries for _, part in a.client.walk("adversary.client")]
    planted = [inherited_backdoor(experiment), *(part.backdoor() for part in parts)]
    return list(dict.fromkeys(backdoor for backdoor in planted if backdoor is not None))


def _stack_attacks(attacks: tuple[Client, ...], honest: Client) -> Client:
    """Return a client wrapped in attacks, the first innermost."""
    for i, attack in enumerate(attacks):
        honest = attack.rewrap(honest, always=i > 0)
    return honest
