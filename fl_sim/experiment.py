"""An experiment: a whole run as one frozen value.

It is written as a Python file that imports its parts and names one `EXPERIMENT`; it becomes
JSON beside its results, and that JSON runs again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from fl_sim.contracts import AggregationRule, Client, Dataset, Protection
from fl_sim.core import serialization
from fl_sim.core.errors import FieldError, require
from fl_sim.core.flower_strategies import Strategy
from fl_sim.data.class_folders import parse_levels
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet, Partition
from fl_sim.data.sources import ReadOptions, load_subset
from fl_sim.participants import Adversary, Participation

# Values of a field, or, by label, the changes of several fields at once.
Axis = Sequence[Any] | Mapping[str, Mapping[str, Any]]
Axes = Mapping[str, Axis]  # by field path: the grid of a sweep
LONGEST_NAME = 200  # bytes; file systems take 255, and files beside it have a suffix
MOST_ROUNDS = 1_000_000  # who takes part is drawn for each of them before the first


@dataclass(frozen=True)
class Data:
    """Which images, how many, and how many owners they have.

    Attributes:
        dataset: name of a dataset, as `fl-sim list datasets` prints it.
        num_clients: participants that share the training images.
        num_samples: size of the class-balanced subset that is shared out; None: all.
        num_test: size of the class-balanced subset of the test images; None: all.
        held_out: share of each client's images, class by class, that nobody trains on: the
            outsiders of the membership audit.
        path: folder of the dataset's files; None: search the usual places.
        classes: only these, numbered anew in this order; None: all.
        side: to which images are scaled, in pixels, as `fl-sim protect --side` does; None: they
            stay as they are, and have to be of one size.
        folders: what the levels of an image folder name, from the top, such as
            `split/label/owner`; None: what their names say.
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
        """How its images are read."""
        return ReadOptions(self.side, self.folders)


def subset_of(data: Data) -> Dataset:
    """Return the images that are asked for; read once a process, and nobody changes them.

    Raises:
        FieldError: for what the dataset does not have.
        MissingDataError: where it is nowhere to be had.
    """
    sizes = data.num_samples, data.num_test
    return load_subset(data.dataset, data.path, *sizes, data.classes, data.read_options)


@dataclass(frozen=True)
class Model:
    """Which network, from which start, and which part of it is trained.

    Attributes:
        backbone: name of a network, as `fl-sim list models` prints it.
        init: `pretrained` weights (a foundation model), or a `random` start.
        tune: the part that is trained and travels: everything, the last block and the head,
            or the head alone; with the head, the scales and shifts of all normalisation
            (`norm`), all biases (`bias`), or low-rank changes to the last block (`lora`). A
            front that is frozen as a whole is computed once an image and cached.
        rank: of the changes of `lora`.
        norm: of networks of ours: `batch`, `group` (keeps no statistics), or `off`.
        pixels: side to which images are scaled for a foundation model; None: its default.
        backbone_rate: learning rate of pretrained layers as a share of the head's.
    """

    backbone: str = "small_cnn"
    init: Literal["random", "pretrained"] = "random"
    tune: Literal["full", "last_block", "head", "norm", "bias", "lora"] = "full"
    norm: Literal["batch", "group", "off"] = "batch"
    pixels: int | None = None
    backbone_rate: float = 0.05
    rank: int = 4

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.rank >= 1, "rank", "at least 1", self.rank)
        require(0 < self.backbone_rate <= 1, "backbone_rate", "in (0, 1]", self.backbone_rate)
        fits = self.pixels is None or 8 <= self.pixels <= 512
        require(fits, "pixels", "between 8 and 512, or None for the default", self.pixels)

    def __str__(self) -> str:
        """Return its name, its start and what is trained; of the rest, what is not default."""
        rest = [f.name for f in fields(self)[3:] if getattr(self, f.name) != f.default]
        words = [f"{name}={getattr(self, name)}" for name in rest]
        return ", ".join([self.backbone, self.init, self.tune, *words])


@dataclass(frozen=True)
class FailurePolicy:
    """What happens when a client raises, dies, or sends what cannot be used.

    Attributes:
        on_failure: `raise` ends the run; `skip` goes on without the client; `retry` asks it
            again, up to `retries` times, then skips it.
        retries: further attempts under `retry`.
        min_updates: fewest valid updates with which a round may be aggregated.
        timeout: seconds of work after which a client has failed; None: no limit.
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


@dataclass(frozen=True)
class Evaluation:
    """When the global model is scored, and what is measured only once, after the last round.

    Attributes:
        every: number of rounds from one evaluation on the test set and the audited pool to the
            next; the last is always evaluated.
        contributions: what each client's last update adds: `none`; `leave_one_out`, which
            evaluates one model a client; `shapley`, also GTG-Shapley values, which take up to
            a few hundred models. Either also gives cosines.
        alone: how each client would train by itself, for as many rounds, to see what it gains
            by taking part; None: not measured. Costs as much as the run itself.
    """

    every: int = 1
    contributions: Literal["none", "leave_one_out", "shapley"] = "none"
    alone: Client | None = None

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.every >= 1, "every", "at least 1", self.every)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A whole run as one value: same value, same seed, same bits.

    Attributes:
        name: folder of its results.
        client: how honest participants train.
        strategy: an aggregation rule of ours, or any built-in strategy of Flower.
        data, partition, model, participation, failures, evaluation: as their classes say.
        protection: noise that owners add to their images; None: nobody protects.
        layout: which images it is added to.
        adversary: clients that misbehave; several, where there are several kinds of attack, or
            None: all are honest.
        rounds: number of rounds.
        seed: of everything that is drawn.
    """

    name: str
    client: Client
    strategy: AggregationRule | Strategy
    data: Data = field(default_factory=Data)
    partition: Partition = field(default_factory=Dirichlet)
    protection: Protection | None = None
    layout: Layout = field(default_factory=Layout)
    model: Model = field(default_factory=Model)
    participation: Participation = field(default_factory=Participation)
    adversary: Adversary | tuple[Adversary, ...] | None = None
    failures: FailurePolicy = field(default_factory=FailurePolicy)
    evaluation: Evaluation = field(default_factory=Evaluation)
    rounds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        serialization.check_types(self)
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
        for stay in self.participation.stays:
            there = stay.client < clients
            require(there, "participation.stays", f"clients below {clients}", stay.client)
        for i, adversary in enumerate(self.adversaries):
            try:
                self._check_adversary(adversary)
            except FieldError as error:
                many = isinstance(self.adversary, tuple)
                raise error.with_prefix(f"adversary.{i}" if many else "adversary") from None
        idle = self.protection is None and not self.layout.withheld
        fraction = self.layout.fraction
        require(not idle or fraction == 0, "layout.fraction", "0 without a protection", fraction)

    @property
    def adversaries(self) -> tuple[Adversary, ...]:
        """The kinds of attack, in the order in which they are stacked; mostly none or one."""
        if self.adversary is None:
            return ()
        return self.adversary if isinstance(self.adversary, tuple) else (self.adversary,)

    @property
    def num_beside(self) -> int:
        """Number of attackers that hold no images, beside the clients that share them."""
        return sum(a.count(0) for a in self.adversaries if a.beside)

    @property
    def num_clients(self) -> int:
        """Number of all participants: those that share the images, and attackers beside them."""
        return self.data.num_clients + self.num_beside

    def _check_adversary(self, adversary: Adversary) -> None:
        """Raise a `FieldError` where there are no such clients, or not as many."""
        if adversary.beside:
            return
        clients, layout = self.data.num_clients, self.layout
        named = max(adversary.clients, default=0)
        require(named < clients, "clients", f"below data.num_clients = {clients}", named)
        count = adversary.count(clients)
        require(count <= clients, "num_clients", f"at most {clients} clients", count)
        if adversary.among == "all" or layout.fraction == 0:
            return
        by_client = layout.unit == "clients"
        require(by_client, "among", "'all' unless layout.unit is 'clients'", adversary.among)
        protecting = layout.count_protecting(clients)
        there = protecting if adversary.among == "protected" else clients - protecting
        require(count <= there, "num_clients", f"at most {there} {adversary.among} clients", count)

    @property
    def clients_per_round(self) -> int:
        """Number of clients that are asked each round; under Poisson sampling, on average."""
        return self.participation.clients_per_round or self.num_clients

    @property
    def root_samples(self) -> int:
        """Number of clean test images that the server takes to train on itself; mostly 0."""
        rule = self.strategy
        return rule.root_samples if isinstance(rule, AggregationRule) else 0

    @property
    def run_id(self) -> str:
        """Name of the run: a hash of everything but the seed (and the engine).

        Where nothing is protected, it does not matter by what: those runs share one name.
        """
        value = self if self.layout.fraction > 0 else self.all_clean()
        text = json.dumps(replace(value, seed=0).describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def all_clean(self) -> "Experiment":
        """Return the control in which nobody protects (A_all)."""
        return replace(self, protection=None, layout=Layout())

    def clean_part_only(self) -> "Experiment":
        """Return the control that trains on the clean part alone (A_clean).

        The protected images are left out, so their noise does not matter; every protection
        shares this control.
        """
        return replace(
            self,
            protection=None,
            layout=replace(self.layout, provenance="shared", withheld=True),
        )

    def controls(self) -> dict[str, "Experiment"]:
        """Return the runs that protection is measured against, by name."""
        if self.protection is None or self.layout.fraction == 0:
            return {}
        found = {"all": self.all_clean()}
        if self.layout.fraction < 1:
            found["clean"] = self.clean_part_only()
        return found

    def describe(self) -> dict[str, Any]:
        """Return the experiment as plain JSON values: classes by name, and their fields."""
        described: dict[str, Any] = serialization.describe(self)
        return described

    def to_json(self) -> str:
        """Return the experiment as JSON; `from_json` gives it back."""
        return json.dumps(self.describe(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Read an experiment from JSON.

        Raises:
            RequestError: for what is no experiment, or names a class that is not allowed.
        """
        return serialization.construct(serialization.parse_json(text), cls)

    def with_value(self, path: str, value: Any) -> "Experiment":
        """Return a copy with the field at `path` (such as `layout.fraction`) set to `value`."""
        return serialization.with_value(self, path, value)
