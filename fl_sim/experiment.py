"""Experiments: a whole run as one frozen dataclass.

An experiment file is a Python file that imports parts and defines `EXPERIMENT`. The experiment is
stored as JSON beside its results, and can be run again from it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fl_sim.contracts import AggregationRule, Client, Corruption, Dataset, Protection
from fl_sim.core import serialization
from fl_sim.core.errors import FieldError, prefix_errors, require, require_at_least, suggest
from fl_sim.core.flower_types import Strategy
from fl_sim.core.names import choose_plugin
from fl_sim.core.perturbation import check_radius
from fl_sim.core.plugins import discover
from fl_sim.core.user_modules import cache_by_modules
from fl_sim.data.class_folders import parse_levels
from fl_sim.data.domain_shift import DomainShift
from fl_sim.data.layout import Layout, Protects, assign_clauses, refuse_overlaps
from fl_sim.data.partition import Dirichlet, Partition
from fl_sim.data.sources import ReadOptions, load_subset
from fl_sim.model import CLOSED_FORM as CLOSED_FORM
from fl_sim.model import Model as Model
from fl_sim.participants import Absent, Adversary, Participation

# Values of a field, or, by label, the changes of several fields at once.
Axis = Sequence[Any] | Mapping[str, Mapping[str, Any]]
Axes = Mapping[str, Axis]  # by field path: the grid of a sweep
LONGEST_NAME = 200  # bytes; file systems take 255, and some files add a suffix
MOST_ROUNDS = 1_000_000  # the participants of all rounds are checked before the first


@dataclass(frozen=True)
class Data:
    """The dataset, its size and the number of clients.

    Attributes:
        dataset: Name of a dataset, as in `fl-sim list datasets`.
        num_clients: Number of clients that share the training images.
        num_samples: Size of the class-balanced subset of the training images; None: all.
        num_test: Size of the class-balanced subset of the test images; None: all.
        held_out: Share of each client's images per class that is not trained on: the non-members
            of the membership audit.
        path: Folder of the dataset's files; None: search the usual places.
        classes: Classes to use, numbered anew in this order; None: all.
        side: Side to which images are scaled, in pixels, as by `fl-sim protect --side`; None: not
            scaled, for images of one size.
        folders: Meaning of the levels of an image folder, from the top, such as
            `split/label/owner`; None: inferred from the folders' names.
    """

    dataset: str = "fashion_mnist"
    num_clients: int = 10
    num_samples: int | None = None
    num_test: int | None = None
    held_out: float = 0.25
    path: str | None = None
    classes: tuple[int, ...] | None = None
    side: int | None = serialization.omit_if_default(None)
    folders: str | None = serialization.omit_if_default(None)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.num_clients >= 1, "num_clients", "at least 1", self.num_clients)
        for name in ("num_samples", "num_test"):
            size = getattr(self, name)
            require(size is None or size >= 1, name, "at least 1, or None for all", size)
        require(0 <= self.held_out <= 0.9, "held_out", "between 0 and 0.9", self.held_out)
        some = self.classes
        distinct = some is None or len(set(some)) == len(some) >= 2
        require(distinct, "classes", "at least two different ones, or None for all", some)
        fits = self.side is None or 8 <= self.side <= 4096
        require(fits, "side", "between 8 and 4096, or None to leave images as they are", self.side)
        parse_levels(self.folders)

    @property
    def read_options(self) -> ReadOptions:
        """Settings for reading the images."""
        return ReadOptions(self.side, self.folders)


def subset_of(data: Data) -> Dataset:
    """Return the requested images, read once per process and not to be changed.

    Raises:
        FieldError: If the dataset lacks requested classes or images.
        MissingDataError: If the dataset cannot be found.
    """
    sizes = data.num_samples, data.num_test
    return load_subset(data.dataset, data.path, *sizes, data.classes, data.read_options)


@dataclass(frozen=True)
class FailurePolicy:
    """Handling of clients that raise, crash, or send an invalid update.

    Attributes:
        on_failure: `raise` ends the run; `skip` continues without the client; `retry` asks it
            again, up to `retries` times, then skips it.
        retries: Number of further attempts under `retry`.
        min_updates: Fewest valid updates with which a round is aggregated.
        timeout: Seconds of work after which a client has failed; None: no limit.
    """

    on_failure: Literal["raise", "skip", "retry"] = "skip"
    retries: int = 2
    min_updates: int = 1
    timeout: float | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.retries >= 0, "retries", "at least 0", self.retries)
        require(self.min_updates >= 1, "min_updates", "at least 1", self.min_updates)
        limit = self.timeout
        require(limit is None or limit > 0, "timeout", "seconds above 0, or None", limit)


@cache_by_modules
def discover_corruptions() -> list[type[Corruption]]:
    """Return the classes of all corruptions, sorted by name."""
    return discover("fl_sim.data.corruptions", Corruption)  # type: ignore[type-abstract]


@dataclass(frozen=True)
class Corruptions:
    """Accuracy of the global model on corrupted test images.

    Attributes:
        names: Names of corruptions, such as `fog`, as in `fl-sim list corruptions`; empty: all.
        severity: Severity of each, from 1 (light) to 5 (heavy).
        every: Number of rounds between measurements, a multiple of `evaluation.every`; None: only
            after the last round. Each costs one evaluation per corruption.
    """

    names: tuple[str, ...] = ()
    severity: int = 3
    every: int | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        known = {cls.name() for cls in discover_corruptions()}
        for name in self.names:
            allowed = f"some of {', '.join(sorted(known))}{suggest(name, known)}"
            require(name in known, "names", allowed, name)
        distinct = len(set(self.names)) == len(self.names)
        require(distinct, "names", "each corruption once", self.names)
        require(1 <= self.severity <= 5, "severity", "from 1 to 5", self.severity)
        require_at_least(self, 1, "every", or_none=True)

    def build(self) -> list[Corruption]:
        """Return the corruptions, in the order of their names."""
        every_class = discover_corruptions()
        wanted = [cls for cls in every_class if not self.names or cls.name() in self.names]
        return [cls(severity=self.severity) for cls in wanted]


@dataclass(frozen=True)
class Adversarial:
    """Accuracy of the global model on test images that are attacked with its gradients.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 8/255.
        attack: `pgd`, projected sign steps of 2.5 radius / steps from a random start (Madry et al.
            2018, https://arxiv.org/abs/1706.06083), or `apgd`, which adapts the steps of each
            image (Croce and Hein 2020, https://arxiv.org/abs/2003.01690).
        steps: Number of steps; each costs a forward and a backward pass through the whole network.
        num_images: Number of test images, drawn by the seed; None: all.
        every: Number of rounds between measurements, a multiple of `evaluation.every`; None: only
            after the last round.
    """

    radius: float = 8 / 255
    attack: Literal["pgd", "apgd"] = "pgd"
    steps: int = 10
    num_images: int | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        check_radius(self.radius)
        require_at_least(self, 1, "steps")
        require_at_least(self, 1, "num_images", "every", or_none=True)


@dataclass(frozen=True)
class Evaluation:
    """Interval of evaluations, and further measurements of the global model and of clients.

    Attributes:
        every: Number of rounds between evaluations on the test set and the audited pool; the last
            round is always evaluated.
        contributions: Contribution of each client's last update: `none`; `leave_one_out`, which
            evaluates one model per client; or `shapley`, which adds GTG-Shapley values from up to
            a few hundred models. Both also give cosines.
        alone: Client plug-in with which each client trains alone for as many rounds, to measure
            its benefit from taking part; None: not measured. Costs as much as the run itself.
        corruptions: Accuracy on corrupted test images; None: not measured.
        adversarial: Accuracy on attacked test images; None: not measured.
    """

    every: int = 1
    contributions: Literal["none", "leave_one_out", "shapley"] = "none"
    alone: Client | None = None
    corruptions: Corruptions | None = serialization.omit_if_default(None)
    adversarial: Adversarial | None = serialization.omit_if_default(None)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.every >= 1, "every", "at least 1", self.every)
        for name in ("corruptions", "adversarial"):
            rounds = getattr(getattr(self, name), "every", None)
            allowed = f"a multiple of evaluation.every = {self.every}, or None for the last round"
            require(rounds is None or rounds % self.every == 0, f"{name}.every", allowed, rounds)


@dataclass(frozen=True)
class EarlyStop:
    """End of a run before its last round, once a metric no longer improves.

    The round that ends the run is measured like the last one. Controls stop by themselves, so
    they may have another number of rounds.

    Attributes:
        metric: Name of a number about the whole federation in every evaluated round, such as
            `accuracy` or `loss`.
        patience: Number of evaluations without improvement after which the run ends.
        min_change: Smallest change that counts as an improvement, in the unit of the metric.
        better: Direction of an improvement.
    """

    metric: str = "accuracy"
    patience: int = 5
    min_change: float = 0.0
    better: Literal["higher", "lower"] = "higher"

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require_at_least(self, 1, "patience")
        require(self.min_change >= 0, "min_change", "at least 0", self.min_change)
        fits = self.metric != "loss" or self.better == "lower"
        require(fits, "better", "'lower' for the metric loss", self.better)

    def is_over(self, values: Sequence[float]) -> bool:
        """Return whether a run with these values of the metric so far ends.

        NaN is no improvement.

        >>> EarlyStop(patience=2).is_over([0.5, 0.7, 0.6, 0.7])
        True
        """
        sign = 1 if self.better == "higher" else -1
        best, waited = -math.inf, 0
        for value in values:
            improves = sign * value > best + self.min_change
            best, waited = (sign * value, 0) if improves else (best, waited + 1)
        return waited >= self.patience


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole run as one value: equal values give equal bits.

    If `model.tune` is one of the closed forms, it selects what belongs to it: in place of the
    client that trains, at the core of its wrappers, the one that sends statistics (also in
    `evaluation.alone`); around the given rule, which aggregates them, the one that solves them; and
    one round.

    Attributes:
        name: Name of the folder of its results.
        client: Training of honest participants.
        strategy: Aggregation rule of this project, or any built-in strategy of Flower.
        data, partition, model, participation, failures, evaluation: See their classes.
        protection: Noise that owners add to their images; None: none.
        layout: Images that the noise is added to: a share drawn by the seed (`Layout`), or clauses
            that name clients and rounds (`Protects`).
        domains: Change of images by which clients differ; None: all clients have images alike.
        adversary: Malicious clients, one `Adversary` per kind of attack; None: all are honest.
        rounds: Number of rounds.
        stop: Condition on which the run ends before; None: it does not.
        seed: Seed of all random draws.
    """

    name: str
    client: Client
    strategy: AggregationRule | Strategy
    data: Data = field(default_factory=Data)
    partition: Partition = field(default_factory=Dirichlet)
    protection: Protection | None = None
    layout: Layout | Protects | tuple[Protects, ...] = field(default_factory=Layout)
    domains: DomainShift | None = serialization.omit_if_default(None)
    model: Model = field(default_factory=Model)
    participation: Participation = field(default_factory=Participation)
    adversary: Adversary | tuple[Adversary, ...] | None = None
    failures: FailurePolicy = field(default_factory=FailurePolicy)
    evaluation: Evaluation = field(default_factory=Evaluation)
    rounds: int = 10
    stop: EarlyStop | None = serialization.omit_if_default(None)
    seed: int = 0

    def __post_init__(self) -> None:
        serialization.check_types(self)
        if isinstance(self.layout, Protects):
            object.__setattr__(self, "layout", (self.layout,))
        self._select_closed_form()
        short = len(self.name.encode()) <= LONGEST_NAME
        require(short, "name", f"at most {LONGEST_NAME} characters, for a folder", self.name)
        require(self.name.isidentifier(), "name", "letters, digits and _", self.name)
        require(self.rounds >= 1, "rounds", "at least 1", self.rounds)
        require(self.rounds <= MOST_ROUNDS, "rounds", f"at most {MOST_ROUNDS:,}", self.rounds)
        require(self.seed >= 0, "seed", "at least 0", self.seed)
        per_round, clients = self.participation.clients_per_round, self.num_clients
        beside = f" and {self.num_beside} beside them" if self.num_beside else ""
        require(
            per_round is None or per_round <= clients,
            "participation.clients_per_round",
            f"at most data.num_clients = {self.data.num_clients}{beside}",
            per_round,
        )
        if self.domains is not None:
            count, holders = self.domains.num_domains, self.data.num_clients
            fits = count is None or count <= holders
            allowed = f"at most data.num_clients = {holders}"
            require(fits, "domains.num_domains", allowed, count)
        for stay in self.participation.stays:
            exists = stay.client < clients
            require(exists, "participation.stays", f"clients below {clients}", stay.client)
        for i, adversary in enumerate(self.adversaries):
            many = isinstance(self.adversary, tuple)
            with prefix_errors(f"adversary.{i}" if many else "adversary"):
                self._check_adversary(adversary)
        for place, absence in enumerate(self.participation.absences):
            with prefix_errors(f"participation.absences.{place}"):
                self._check_absence(absence)
        if isinstance(self.layout, Layout):
            idle = self.protection is None and not self.layout.withheld
            fraction, allowed = self.layout.fraction, "0 without a protection"
            require(not idle or fraction == 0, "layout.fraction", allowed, fraction)
        else:
            with prefix_errors("layout"):
                self._check_clauses()

    def _check_absence(self, absence: Absent) -> None:
        """Raise a `FieldError` for unknown clients, or rounds beyond the run."""
        clients, count = self.data.num_clients, absence.num_clients or 0
        last = max(absence.clients, default=0)
        require(last < clients, "clients", f"below data.num_clients = {clients}", last)
        require(count <= clients, "num_clients", f"at most {clients} clients", count)
        self._check_first_round(absence.first_round)

    def _check_first_round(self, first: int) -> None:
        """Raise a `FieldError` for what begins after the run; a closed form has one round."""
        exists = first <= self.rounds or self.model.tune in CLOSED_FORM
        require(exists, "first_round", f"at most rounds = {self.rounds}", first)

    def _check_clauses(self) -> None:
        """Raise a `FieldError` for clauses that cannot be carried out, alone or together."""
        clauses, usual = self.named_clauses, self.protection
        assigned = assign_clauses(clauses, self.data.num_clients, self.seed)
        for place, clause in enumerate(clauses):
            with prefix_errors(f"{place}"):
                self._check_first_round(clause.first_round)
                protection = clause.make_protection(usual)
                idle = protection is None and not clause.withheld and clause.fraction > 0
                allowed = "a protection, here or in the experiment's field protection"
                require(not idle, "protection", allowed, None)
        refuse_overlaps(clauses, assigned, usual)

    @property
    def named_clauses(self) -> tuple[Protects, ...]:
        """Clauses of a layout that names clients and rounds; empty for a `Layout`."""
        return self.layout if isinstance(self.layout, tuple) else ()

    @property
    def clauses(self) -> tuple[Layout | Protects, ...]:
        """Clauses of the layout, in order; a `Layout` is one."""
        return (self.layout,) if isinstance(self.layout, Layout) else self.named_clauses

    @property
    def protects_images(self) -> bool:
        """True if any image is protected, or left out for it."""
        return any(clause.fraction > 0 for clause in self.clauses)

    @property
    def withholds_images(self) -> bool:
        """True if chosen images are left out instead of protected (the control A_clean)."""
        return any(clause.withheld for clause in self.clauses)

    @property
    def has_own_noise(self) -> bool:
        """True if owners make noise of their own, instead of noise that all share."""
        return any(clause.provenance != "shared" for clause in self.clauses)

    def list_protections(self) -> list[tuple[str, Protection, Layout | Protects]]:
        """Return the protection of each clause that protects images, with its field path."""
        if isinstance(self.layout, Layout):
            used = self.protection is not None and self.layout.fraction > 0
            return [("protection", self.protection, self.layout)] if used else []  # type: ignore[list-item]
        found: list[tuple[str, Protection, Layout | Protects]] = []
        for place, clause in enumerate(self.named_clauses):
            protection = clause.make_protection(self.protection)
            if protection is not None and clause.fraction > 0 and not clause.withheld:
                path = f"layout.{place}.protection" if clause.protection else "protection"
                found.append((path, protection, clause))
        return found

    def _select_closed_form(self) -> None:
        """Set the fields that belong to a closed form, or refuse those of another tune."""
        tune, alone = self.model.tune, self.evaluation.alone
        if tune in CLOSED_FORM:
            chosen = {"client": send_statistics(self.client), "rounds": 1}
            chosen["strategy"] = solve_statistics(self.strategy, tune)
            if alone is not None:
                chosen["evaluation"] = replace(self.evaluation, alone=send_statistics(alone))
            for name, value in chosen.items():
                object.__setattr__(self, name, value)
            return
        if tune == "zero_shot":
            idle = choose_plugin("NoopClient", "client", (Client,))()
            object.__setattr__(self, "client", idle)
            object.__setattr__(self, "rounds", 1)
            attackers = self.adversary is None
            require(attackers, "adversary", "None for zero_shot: clients send nothing", "attackers")
            return
        rule = self.strategy.tune if isinstance(self.strategy, AggregationRule) else ""
        name = type(self.strategy).__name__
        require(not rule, "strategy", f"a rule for model.tune={tune}, which {name} is not", name)
        name, trains = type(self.client).__name__, not _find_statistics_client(self.client)
        require(trains, "client", f"one that trains, for model.tune={tune}", name)

    def describe_closed_form(self) -> str:
        """Return the parts that a closed form selected, in one line; empty for trained networks."""
        if self.model.tune not in (*CLOSED_FORM, "zero_shot"):
            return ""
        parts = f"client {serialization.label(self.client)}"
        rule = serialization.label(self.strategy)
        return f"model.tune={self.model.tune} trains nothing: one round of {parts}, strategy {rule}"

    def closed_form_start(self) -> "Experiment":
        """Return the round of the closed form whose head the training starts from.

        The run's own rule aggregates the statistics if it is set for a number of attackers, and
        otherwise the weighted mean: others may not return what all clients agree on.
        """
        tune, rule = self.model.warm_start, self.strategy
        assert tune is not None
        solver: Any = find_solver(tune)()
        robust = isinstance(rule, AggregationRule) and rule.num_attackers() is not None
        if robust and "rule" in serialization.argument_names_of(type(solver)):
            solver = replace(solver, rule=rule)
        model = replace(self.model, tune=tune, warm_start=None)
        return replace(self, model=model, strategy=solver, evaluation=Evaluation())

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """Adversaries as a tuple, in the order in which their attacks are stacked."""
        if self.adversary is None:
            return ()
        return self.adversary if isinstance(self.adversary, tuple) else (self.adversary,)

    @property
    def last_attack(self) -> int:
        """Last round in which anybody attacks; 0 if nobody does."""
        attacks = [a for a in self.adversaries if a.count(self.data.num_clients)]
        numbers = range(self.rounds, 0, -1)
        return next((i for i in numbers if any(a.is_active(i) for a in attacks)), 0)

    @property
    def num_beside(self) -> int:
        """Number of attackers that are additional clients without images."""
        return sum(a.count(0) for a in self.adversaries if a.beside)

    @property
    def num_clients(self) -> int:
        """Number of all clients, including attackers without images."""
        return self.data.num_clients + self.num_beside

    def _check_adversary(self, adversary: Adversary) -> None:
        """Raise a `FieldError` if there are fewer such clients than the adversary needs."""
        if adversary.beside:
            return
        clients, layout = self.data.num_clients, self.layout
        named = max(adversary.clients, default=0)
        require(named < clients, "clients", f"below data.num_clients = {clients}", named)
        count = adversary.count(clients)
        require(count <= clients, "num_clients", f"at most {clients} clients", count)
        if adversary.among == "all" or not self.protects_images:
            return
        by_client = isinstance(layout, Layout) and layout.unit == "clients"
        require(by_client, "among", "'all' unless layout.unit is 'clients'", adversary.among)
        assert isinstance(layout, Layout)
        protecting = layout.count_protecting(clients)
        most = protecting if adversary.among == "protected" else clients - protecting
        require(count <= most, "num_clients", f"at most {most} {adversary.among} clients", count)

    @property
    def clients_per_round(self) -> int:
        """Number of clients sampled per round; under Poisson sampling, the average number."""
        return self.participation.clients_per_round or self.num_clients

    @property
    def root_samples(self) -> int:
        """Number of clean test images that the server itself trains on; 0 for most rules."""
        rule = self.strategy
        return rule.root_samples if isinstance(rule, AggregationRule) else 0

    @property
    def run_id(self) -> str:
        """Name of the run: a hash of all fields but the seed.

        If no image is protected, the protection is ignored, so that such runs share one name. A
        checkpoint, an adapter or class embeddings count by their content, not by their path.

        Raises:
            FieldError: If there is one that cannot be read.
        """
        value = self if self.protects_images else self.all_clean()
        model = self.model
        if model.checkpoint:
            model = replace(model, checkpoint=model.hash_checkpoint())
        if model.adapter:
            model = replace(model, adapter=model.hash_adapter())
        if model.class_embeddings:
            model = replace(model, class_embeddings=model.hash_embeddings())
        value = replace(value, model=model)
        text = json.dumps(replace(value, seed=0).describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def all_clean(self) -> "Experiment":
        """Return the control run without protection (A_all)."""
        return replace(self, protection=None, layout=Layout())

    def clean_part_only(self) -> "Experiment":
        """Return the control run on the clean images alone (A_clean), shared by all protections."""
        if isinstance(self.layout, Layout):
            layout = replace(self.layout, provenance="shared", withheld=True)
            return replace(self, protection=None, layout=layout)
        withheld: dict[str, Any] = {"protection": None, "radius": None, "provenance": "shared"}
        withheld |= {"first_round": 1, "last_round": None, "withheld": True}
        clauses = tuple(replace(clause, **withheld) for clause in self.named_clauses)
        return replace(self, protection=None, layout=clauses)

    def all_honest(self) -> "Experiment":
        """Return the control run in which nobody attacks (A_honest); a planted start stays."""
        clients, plan = self.data.num_clients, self.participation
        per_round = plan.clients_per_round
        plan = replace(
            plan,
            clients_per_round=None if per_round is None else min(per_round, clients),
            stays=tuple(stay for stay in plan.stays if stay.client < clients),
        )
        return replace(self, adversary=None, participation=plan)

    def controls(self) -> dict[str, "Experiment"]:
        """Return the control runs of the protection and of the attack, by name."""
        controls: dict[str, Experiment] = {}
        if self.list_protections():
            controls["all"] = self.all_clean()
            if not self._protects_everything():
                controls["clean"] = self.clean_part_only()
        if any(adversary.count(self.data.num_clients) for adversary in self.adversaries):
            controls["honest"] = self.all_honest()
        return controls

    def _protects_everything(self) -> bool:
        """Return whether no image is left clean, so that there is no control A_clean."""
        if isinstance(self.layout, Layout):
            return self.layout.fraction == 1
        assigned = assign_clauses(self.named_clauses, self.data.num_clients, self.seed)
        pairs = zip(self.named_clauses, assigned, strict=True)
        whole = [ids for c, ids in pairs if c.fraction == 1 and not c.classes]
        return len({client for ids in whole for client in ids}) == self.data.num_clients

    def describe(self) -> dict[str, Any]:
        """Return the experiment as plain JSON values, of classes with their fields."""
        described: dict[str, Any] = serialization.describe(self)
        return described

    def to_json(self) -> str:
        """Return the experiment as JSON, the inverse of `from_json`."""
        return json.dumps(self.describe(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Return the experiment in a JSON text.

        Raises:
            RequestError: If it holds no experiment, or names a class that is not allowed.
        """
        return serialization.construct(serialization.parse_json(text), cls)

    def with_value(self, path: str, value: Any) -> "Experiment":
        """Return a copy with the field at `path` (such as `layout.fraction`) set to `value`."""
        return serialization.with_value(self, path, value)

    def with_values(self, changes: Iterable[tuple[str, Any]]) -> "Experiment":
        """Return a copy with the fields at several paths set, in whatever order they are."""
        return serialization.with_values(self, changes)


def send_statistics(client: Client) -> Client:
    """Return a client whose training, at the core of its wrappers, sends statistics instead."""
    if _find_statistics_client(client):
        return client
    inner = client.wrapped_clients()
    if not inner:
        clients = discover("clients", Client)  # type: ignore[type-abstract]
        return next(cls for cls in clients if cls.sends_statistics)()
    wrapper: Any = client
    return replace(wrapper, **{n: send_statistics(c) for n, c in inner.items()})  # type: ignore[no-any-return]


def solve_statistics(strategy: AggregationRule | Strategy, tune: str) -> AggregationRule:
    """Return the rule that solves for the head of a closed form, around a rule that aggregates.

    Raises:
        FieldError: If the strategy cannot aggregate statistics.
    """
    name = type(strategy).__name__
    if not isinstance(strategy, AggregationRule):
        allowed = f"a rule of this project for model.tune={tune}, which aggregates statistics"
        raise FieldError("strategy", allowed, name)
    if _contains_rule(strategy, tune):
        return strategy
    solver: Any = find_solver(tune)
    fields_of_other = serialization.field_values(strategy) if strategy.tune else {}
    inner = fields_of_other.get("rule") if strategy.tune else strategy
    if "rule" in serialization.argument_names_of(solver):
        return solver() if inner is None else solver(rule=inner)  # type: ignore[no-any-return]
    allowed = f"{solver.__name__} or FedAvg for model.tune={tune}, which needs each client's own"
    require(inner is None or inner.linear is not None, "strategy", allowed, name)
    return solver()  # type: ignore[no-any-return]


def find_solver(tune: str) -> type[AggregationRule]:
    """Return the rule that solves the statistics of a closed form."""
    rules = discover("strategies", AggregationRule)  # type: ignore[type-abstract]
    return next(rule for rule in rules if rule.tune == tune)


def _find_statistics_client(client: Client) -> bool:
    """Return whether a client, or one that it wraps, sends statistics."""
    return any(part.sends_statistics for _, part in client.walk("client"))


def _contains_rule(rule: AggregationRule, tune: str) -> bool:
    """Return whether a rule, or one that it wraps, solves the statistics of `tune`."""
    inner = serialization.field_values(rule).values()
    return rule.tune == tune or any(
        _contains_rule(value, tune) for value in inner if isinstance(value, AggregationRule)
    )
