"""Scenarios: clauses that state who does what in which rounds, as a sentence and as a timeline."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_sim.contracts import AggregationRule, Client
from fl_sim.core.errors import FieldError, require, suggest
from fl_sim.core.flower_types import Strategy
from fl_sim.core.serialization import label
from fl_sim.core.windows import conjugate, describe_rounds, name_clients, name_numbers
from fl_sim.data.layout import Layout, Protects, assign_clauses
from fl_sim.experiment import Data, Experiment, subset_of
from fl_sim.participants import Absent, Adversary, AvailabilityWindow, Participation
from fl_sim.schedule import Schedule

Clause = Layout | Protects | Adversary | Absent | AvailabilityWindow | AggregationRule | Strategy
Flags = NDArray[np.bool_]
EVERYBODY = Participation()
WIDTH = 60  # columns of a timeline in the terminal; more rounds share a column
MOST_ROWS = 20  # of a timeline in the terminal


class Scenario:
    """Clauses about protections, attackers, absences and the server's rule.

    Clauses are the values that the fields of an experiment hold: `Protects` or one `Layout`
    (`layout`), `Adversary` (`adversary`), `Absent` and `AvailabilityWindow` (`participation`), and
    a rule (`strategy`). `fields` puts them there, so that an experiment alone is stored, and `of`
    reads them back from any experiment. Printed, a scenario is a sentence.

    >>> from clients.label_flip import LabelFlipClient
    >>> flips = Adversary(LabelFlipClient(), clients=(7,), first_round=3, last_round=6)
    >>> print(Scenario(Protects((0, 1, 2, 3), fraction=0.7), flips, Absent((9,), None, 4, 5)))
    clients 0 to 3 protect 70 % of their images from round 1; client 7 flips labels in rounds 3 \
to 6; client 9 is away in rounds 4 and 5
    """

    def __init__(self, *clauses: Clause) -> None:
        """Hold clauses, in the order in which they are printed.

        Raises:
            FieldError: For anything that is no clause, two rules, or a `Layout` beside others.
        """
        for place, clause in enumerate(clauses):
            allowed = "Protects, Layout, Adversary, Absent, AvailabilityWindow or a rule"
            if not isinstance(clause, Clause):
                raise FieldError(f"clause {place}", allowed, clause)
        self.clauses = clauses
        if len(self._select(AggregationRule, Strategy)) > 1:
            raise FieldError("scenario", "one rule; Stages makes one of several", "two")
        if self._select(Layout) and len(self._select(Layout, Protects)) > 1:
            raise FieldError("scenario", "one Layout, or clauses Protects", "both")

    def __str__(self) -> str:
        """Return the clauses as one sentence."""
        return "; ".join(map(_describe, self.clauses))

    def __repr__(self) -> str:
        """Return the clauses as they are written."""
        return f"Scenario({', '.join(map(repr, self.clauses))})"

    def __eq__(self, other: object) -> bool:
        """Return whether all clauses are equal."""
        return isinstance(other, Scenario) and self.clauses == other.clauses

    def __hash__(self) -> int:
        """Return a hash of the clauses."""
        return hash(self.clauses)

    def _select(self, *kinds: type) -> tuple[Any, ...]:
        return tuple(clause for clause in self.clauses if isinstance(clause, kinds))

    def fields(self, participation: Participation = EVERYBODY) -> dict[str, Any]:
        """Return the fields of an experiment that hold the clauses, by name.

        `Experiment(..., **scenario.fields())` is the experiment, and the fields are the changes of
        one label in an axis of a sweep. Fields without a clause are missing.

        Args:
            participation: The further settings of the field `participation`.
        """
        changes: dict[str, Any] = {}
        if layouts := self._select(Layout):
            changes["layout"] = layouts[0]
        if clauses := self._select(Protects):
            changes["layout"] = clauses
        if attackers := self._select(Adversary):
            changes["adversary"] = attackers[0] if len(attackers) == 1 else attackers
        absences, stays = self._select(Absent), self._select(AvailabilityWindow)
        if absences or stays:
            changes["participation"] = replace(participation, absences=absences, stays=stays)
        if rules := self._select(AggregationRule, Strategy):
            changes["strategy"] = rules[0]
        return changes

    @classmethod
    def of(cls, experiment: Experiment) -> "Scenario":
        """Return the scenario of an experiment."""
        plan = experiment.participation
        clauses: list[Clause] = [*(experiment.clauses if experiment.protects_images else ())]
        clauses += [*experiment.adversaries, *plan.absences, *plan.stays, experiment.strategy]
        return cls(*clauses)


def find_clients(data: Data, *names: str) -> tuple[int, ...]:
    """Return the clients that are the owners of these names, for the partition `ByOwner`.

    Each owner has to be a client of its own: client i is then owner i in the order of their names.

    Args:
        data: The data, with as many clients as owners.
        names: Names of owners, as the dataset has them.

    Raises:
        FieldError: For an unknown name, or a dataset without owners or with more of them.
    """
    dataset = subset_of(data)
    owners = [] if dataset.train_owners is None else sorted(set(dataset.train_owners.tolist()))
    allowed = f"as many clients as owners, {len(owners)}" if owners else "of a dataset with owners"
    require(len(owners) == data.num_clients, "data.num_clients", allowed, data.num_clients)
    known = [dataset.owner_names[owner] for owner in owners]
    for name in names:
        require(name in known, "owner", f"one of {', '.join(known)}{suggest(name, known)}", name)
    return tuple(known.index(name) for name in names)


def is_scripted(experiment: Experiment) -> bool:
    """Return whether an experiment names clients or rounds by clauses."""
    changes = len(list_rules(experiment)) > 1
    return bool(experiment.named_clauses or experiment.participation.absences or changes)


def _describe(clause: Clause) -> str:
    """Return a clause in words."""
    match clause:
        case Protects() | Absent():
            return str(clause)
        case Layout():
            return _describe_layout(clause)
        case Adversary():
            return _describe_adversary(clause)
        case AvailabilityWindow():
            rounds = describe_rounds(clause.first_round, clause.last_round)
            return f"client {clause.client} takes part {rounds}"
        case AggregationRule():
            firsts, last = clause.first_rounds, clause.first_rounds[-1]
            rules = [
                f"{label(clause.at_round(first))} until round {after - 1}"
                for first, after in pairwise(firsts)
            ]
            return f"the server uses {', then '.join([*rules, str(label(clause.at_round(last)))])}"
    return f"the server uses {label(clause)} of Flower"


def _describe_layout(layout: Layout) -> str:
    share, verb = f"{100 * layout.fraction:g} % of", "left out" if layout.withheld else "protected"
    what = {
        "samples": f"{share} each client's images",
        "clients": f"all images of {share} the clients",
        "classes": f"all images of {share} the classes",
    }
    return f"{what[layout.unit]} are {verb} {describe_rounds(layout.first_round, None)}"


def _describe_adversary(adversary: Adversary) -> str:
    count = adversary.count(0) if adversary.share is None else None
    if adversary.share is not None:
        who, is_one = f"{100 * adversary.share:g} % of the clients", False
    elif adversary.beside:
        who, is_one = f"{count} more client{'s' * (count != 1)}", count == 1
    else:
        who, is_one = name_clients(adversary.clients, count)
    group = "" if adversary.among == "all" else f" among the {adversary.among} ones"
    anew = ", drawn anew in each," if adversary.drawn == "each_round" else ""
    every = f", every {adversary.every} rounds" if adversary.every > 1 else ""
    rounds = describe_rounds(adversary.first_round, adversary.last_round)
    return f"{who}{group}{anew} {describe_attack(adversary.client, is_one)} {rounds}{every}"


def describe_attack(client: Client, is_one: bool) -> str:
    """Return the behaviour of attackers as a verb phrase, with fields that are not default."""
    words = str(label(client))
    if not client.action:
        return f"{conjugate('attack', is_one)} by {words}"
    return conjugate(client.action, is_one) + (f" by {words}" if "(" in words else "")


def list_rules(experiment: Experiment) -> list[tuple[int, str]]:
    """Return the rules of the server, each with its first round."""
    rule = experiment.strategy
    if not isinstance(rule, AggregationRule):
        return [(1, str(label(rule)))]
    return [(first, str(label(rule.at_round(first)))) for first in rule.first_rounds]


@dataclass(frozen=True, eq=False)
class Plan:
    """The events of a scenario as boolean [clients, rounds] arrays, known before a run.

    Attributes:
        protected: Whether images of the client carry noise in the round.
        attacked: Whether the client attacks.
        away: Whether the client is away.
    """

    protected: Flags
    attacked: Flags
    away: Flags


def make_plan(experiment: Experiment) -> Plan:
    """Return the events of an experiment; of a `Layout` by samples or classes, in all clients."""
    schedule, count = Schedule(experiment), experiment.num_clients
    protecting = _list_protecting(experiment)
    plan = Plan(*(np.zeros((count, experiment.rounds), dtype=np.bool_) for _ in range(3)))
    everybody = list(range(count))
    for column in range(experiment.rounds):
        round_num = column + 1
        for place in schedule.active_clauses(round_num):
            plan.protected[protecting[place], column] = True
        plan.attacked[sorted(schedule.attackers(round_num)), column] = True
        plan.away[schedule.list_unavailable(round_num, everybody), column] = True
    return plan


def _list_protecting(experiment: Experiment) -> list[list[int]]:
    """Return the clients that protect images by each clause."""
    clauses, holders, seed = experiment.clauses, experiment.data.num_clients, experiment.seed
    if isinstance(experiment.layout, Layout):
        protects = experiment.layout.fraction > 0
        return [experiment.layout.list_clients(holders, seed) if protects else []]
    assigned = assign_clauses(experiment.named_clauses, holders, seed)
    pairs = zip(clauses, assigned, strict=True)
    return [list(own) if clause.fraction > 0 else [] for clause, own in pairs]


def draw_timeline(experiment: Experiment) -> str:
    """Return a timeline as text: a row per client, or per group of equal ones, a column per round.

    P: protects, A: attacks, B: both, -: away, a dot: trains on clean images. The last row has the
    rule of the server by its number. Beyond 60 rounds, several share a column, which shows events
    of any of them.
    """
    plan, rounds = make_plan(experiment), experiment.rounds
    step = -(-rounds // WIDTH)
    rows: dict[str, list[int]] = {}
    for client in range(experiment.num_clients):
        columns = (slice(i, i + step) for i in range(0, rounds, step))
        symbols = (_choose_symbol(plan, client, part) for part in columns)
        rows.setdefault("".join(symbols), []).append(client)
    names = [name_numbers("client", "clients", tuple(ids)) for ids in rows.values()]
    lines = list(zip(names, rows, strict=True))
    hidden = lines[MOST_ROWS:]
    lines = [*lines[:MOST_ROWS], *([("others", "...")] if hidden else [])]
    rules, legend = list_rules(experiment), list[str]()
    if len(rules) > 1:
        firsts = [sum(first <= i + 1 for first, _ in rules) for i in range(0, rounds, step)]
        lines.append(("server", "".join(map(str, firsts))))
        legend = [f"{number}: {rule}" for number, (_, rule) in enumerate(rules, 1)]
    marks = {"P": "protects", "A": "attacks", "B": "both", "-": "away", ".": "trains"}
    used = {symbol for row in rows for symbol in row}
    legend = [f"{mark}: {word}" for mark, word in marks.items() if mark in used] + legend
    width = max(len(_shorten(name)) for name, _ in lines)
    ruler = f"{'round':{width}}  1{str(rounds) if rounds > 1 else '':>{-(-rounds // step) - 1}}"
    body = [f"{_shorten(name):{width}}  {row}" for name, row in lines]
    return "\n".join([ruler, *body, ", ".join(legend)])


def _shorten(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:21]}..."


def _choose_symbol(plan: Plan, client: int, part: slice) -> str:
    away, attacked, protected = (
        bool(flags[client, part].any()) for flags in (plan.away, plan.attacked, plan.protected)
    )
    if away and bool(plan.away[client, part].all()):
        return "-"
    return {(True, True): "B", (True, False): "A", (False, True): "P"}.get(
        (attacked, protected), "."
    )
