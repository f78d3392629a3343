"""Every metric, found by walking its package: known values, and flags of undefined ones."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fl_sim.backends.base import InProcessBackend
from fl_sim.contracts import Metric, RoundRecord, Row, Triggered, Update
from fl_sim.core.plugins import discover
from fl_sim.core.seeding import generator
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import prepare_federation
from fl_sim.metrics.accuracy import class_accuracies
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.loop import create_state
from fl_sim.rounds.measure import measure_round
from fl_sim.rounds.server import RuleServer
from fl_sim.rounds.state import RoundOutcome
from fl_sim.training.client_trainer import make_trainer
from fl_sim.training.tasks import RoundConfig
from strategies.fedavg import FedAvg

METRICS = [cls() for cls in discover("fl_sim.metrics", Metric)]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda m: type(m).__name__)
Maker = Callable[..., RoundRecord]


def sure_of(labels: Tensor, num_classes: int = 10) -> Tensor:
    """Return confident logits of the given labels."""
    return 50 * torch.nn.functional.one_hot(labels, num_classes).float()


def perfect(record: RoundRecord) -> RoundRecord:
    """Return the record of a model that is perfect on the test set and leaks every member."""
    wrong = (record.pool_labels + 1) % 10
    answers = torch.where(record.members, record.pool_labels, wrong)
    return replace(record, test_logits=sure_of(record.test_labels), pool_logits=sure_of(answers))


def all_rows(record: RoundRecord) -> list[Row]:
    return [row for metric in METRICS for row in metric.rows(record)]


def values(record: RoundRecord, metric: str, group: str = "all") -> list[float]:
    return [row.value for row in all_rows(record) if row.metric == metric and row.group == group]


def readable(row: Row) -> bool:
    """Return whether a row has a finite value, or a note with the reason."""
    return math.isfinite(row.value) or (not row.valid and bool(row.note))


def part(record: RoundRecord, kept: Tensor) -> RoundRecord:
    """Return a record whose pool is a part of the audited records."""
    names = ("pool_logits", "pool_labels", "pool_clients", "members", "protected")
    changed: Any = {name: getattr(record, name)[kept] for name in names}
    return replace(record, **changed)


def odd_observations(record: RoundRecord) -> dict[str, RoundRecord]:
    """Return records in which something is missing, by its name."""
    no, yes = torch.zeros(160, dtype=torch.bool), torch.ones(160, dtype=torch.bool)
    none, all_ = torch.zeros(4, dtype=torch.int64), torch.full((4,), 80)
    own = torch.tensor([80, 0, 0, 0])
    extra = torch.cat([record.class_counts, torch.zeros(1, 10, dtype=torch.int64)])
    return {
        "nobody is protected": replace(record, protected=no, protected_counts=none),
        "everybody is protected": replace(record, protected=yes, protected_counts=all_),
        "one client protects": replace(
            record, protected=torch.arange(160) < 40, protected_counts=own
        ),
        "nobody is audited": part(record, no),
        "three are audited": part(record, torch.arange(160) < 3),
        "only members are audited": part(record, record.members),
        "only outsiders are audited": part(record, ~record.members),
        "one member and one outsider are audited": part(record, torch.arange(160) % 159 == 0),
        "a client has no records": replace(
            record, class_counts=extra, protected_counts=torch.tensor([40, 40, 40, 40, 0])
        ),
        "one client": replace(
            part(record, torch.arange(160) < 40),
            class_counts=record.class_counts[:1],
            protected_counts=record.protected_counts[:1],
        ),
        "one class in the test set": replace(
            record,
            test_logits=torch.zeros(4, 10),
            test_labels=torch.ones(4, dtype=torch.int64),
            triggered=Triggered(torch.zeros(4, 10), target=1),
        ),
    }


ODD = (
    "nobody is protected",
    "everybody is protected",
    "one client protects",
    "nobody is audited",
    "three are audited",
    "only members are audited",
    "only outsiders are audited",
    "one member and one outsider are audited",
    "a client has no records",
    "one client",
    "one class in the test set",
)


@every_metric
def test_a_metric_yields_rows_of_its_round(metric: Metric, observation: Maker) -> None:
    rows = list(metric.rows(observation()))
    assert rows
    assert all(type(row) is Row and row.round == 3 for row in rows)
    assert all(type(row.metric) is str and -1 <= row.client < 4 for row in rows)


@every_metric
def test_no_two_rows_of_a_round_are_about_the_same(metric: Metric, observation: Maker) -> None:
    keys = [(row.metric, row.client, row.group) for row in metric.rows(perfect(observation()))]
    assert len(keys) == len(set(keys))


@cache
def names_of_metrics(observation: Maker) -> dict[type, set[str]]:
    """Return the names of the rows of every metric."""
    return {type(metric): {row.metric for row in metric.rows(observation())} for metric in METRICS}


@every_metric
def test_no_other_metric_uses_its_names(metric: Metric, observation: Maker) -> None:
    names = names_of_metrics(observation)
    others = (own for cls, own in names.items() if cls is not type(metric))
    assert names[type(metric)].isdisjoint(set().union(*others))


@pytest.mark.parametrize("odd", ODD)
@every_metric
def test_every_number_is_finite_or_flagged(metric: Metric, odd: str, observation: Maker) -> None:
    record = odd_observations(observation())[odd]
    assert [row for row in metric.rows(record) if not readable(row)] == []


def test_no_odd_observation_is_forgotten(observation: Maker) -> None:
    assert tuple(odd_observations(observation())) == ODD


BROKEN = ("nan", "inf", "-inf")
PARTS = ("test", "pool", "triggered", "personal", "everything")


def broken(record: RoundRecord, part: str, kind: str, everywhere: bool) -> RoundRecord:
    """Return the record of a model of which some or all outputs are not finite."""

    def spoilt(logits: Tensor) -> Tensor:
        rows = slice(None) if everywhere else slice(0, 1)
        worse = logits.clone()
        worse[rows] = float(kind)
        return worse

    assert record.triggered is not None
    changed: dict[str, Any] = {}
    if part in ("test", "everything"):
        changed["test_logits"] = spoilt(record.test_logits)
    if part in ("pool", "everything"):
        changed["pool_logits"] = spoilt(record.pool_logits)
    if part in ("triggered", "everything"):
        changed["triggered"] = Triggered(spoilt(record.triggered.logits), record.triggered.target)
    if part in ("personal", "everything"):
        own = spoilt(torch.eye(10)) if kind == "nan" else torch.eye(10)
        changed["personal"] = {1: class_accuracies(own * float(kind), torch.arange(10))}
    return replace(record, **changed)


READS = {  # what begins like this is made of that part
    "test": (
        "accuracy",
        "loss",
        "client_accuracy",
        "attack_success_untriggered",
        "fairness_mean",
        "fairness_jain",
        "fairness_worst",
    ),
    "pool": ("mia_", "fairness_leakage"),
    "triggered": ("attack_success",),
    "personal": ("personal_accuracy",),
}


def is_made_of(row: Row, part: str) -> bool:
    if part == "triggered":
        return row.metric == "attack_success"
    return row.metric.startswith(READS[part]) and (part != "test" or "leakage" not in row.metric)


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("part", PARTS)
@every_metric
def test_nothing_that_is_made_of_a_diverged_model_is_a_number(
    metric: Metric, part: str, kind: str, everywhere: bool, observation: Maker
) -> None:
    record = observation(pool_features=torch.randn(160, 3, generator=generator(0, "features")))
    rows = list(metric.rows(broken(record, part, kind, everywhere)))
    assert [row for row in rows if row.valid and not math.isfinite(row.value)] == []
    made = [
        row for row in rows for own in READS if part in (own, "everything") if is_made_of(row, own)
    ]
    assert all(math.isnan(row.value) and not row.valid for row in made)
    assert all(math.isnan(row.low) and math.isnan(row.high) for row in made)
    assert all(row.note == "the model diverged" for row in made)
    whole = {(row.metric, row.client, row.group) for row in metric.rows(record)}
    assert whole <= {(row.metric, row.client, row.group) for row in rows}


@every_metric
def test_what_does_not_read_a_broken_part_stays(metric: Metric, observation: Maker) -> None:
    """A row that needs no logits, or others, is the same number as before."""

    def kept(record: RoundRecord) -> dict[tuple[str, int, str], float]:
        free = ("protected_share", "attack_success_untriggered", "exclusion", "bytes", "detection")
        return {
            (row.metric, row.client, row.group): row.value
            for row in metric.rows(record)
            if row.metric.startswith(free) and row.valid
        }

    record = observation()
    part = "triggered" if type(metric).__name__ == "BackdoorSuccess" else "everything"
    assert kept(broken(record, part, "nan", everywhere=True)) == kept(record)


class Careless(Metric):
    """A metric without checks of its own, as a user may write it."""

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        yield Row(record.round, "clients", record.num_clients)
        right = record.test_logits.argmax(1) == record.test_labels
        yield Row(record.round, "right", float(right.double().mean()), low=0.0, high=1.0)
        yield Row(record.round, "worst", int(record.test_logits.sum()))


class Listed(Metric):
    """Another one, whose rows are a list."""

    def rows(self, record: RoundRecord) -> list[Row]:
        gap = record.pool_logits[record.members].max() - record.pool_logits[~record.members].max()
        return [Row(record.round, "gap", float(gap > 0)), Row(record.round, "one", 1.0)]


class Sly(Metric):
    """One that takes the fields out as a mapping, and puts others in their place."""

    def rows(self, record: RoundRecord) -> Iterator[Row]:
        other = replace(record, round=4)
        yield Row(record.round, "copied", float(other.test_logits.argmax(1).double().mean()))
        logits = vars(record)["test_logits"]
        yield Row(record.round, "taken", float(logits.argmax(1).double().mean()))


@pytest.mark.parametrize("kind", BROKEN)
def test_a_metric_of_ones_own_cannot_make_a_number_of_a_diverged_model(
    kind: str, observation: Maker
) -> None:
    record = broken(observation(), "everything", kind, everywhere=False)
    counted, *made = [row for own in (Careless(), Listed(), Sly()) for row in own.rows(record)]
    assert (counted.value, counted.valid) == (4, True)
    assert [row.metric for row in made] == ["right", "worst", "gap", "one", "copied", "taken"]
    for row in made:
        assert math.isnan(row.value)
        assert math.isnan(row.low)
        assert (row.valid, row.note) == (False, "the model diverged")


def test_a_metric_of_ones_own_is_left_alone_where_all_is_well(observation: Maker) -> None:
    rows = [row for own in (Careless(), Listed(), Sly()) for row in own.rows(observation())]
    assert all(row.valid and not row.note for row in rows)
    assert [row.value for row in rows[:2]] == [4, pytest.approx(0.1)]


def test_a_number_that_is_not_finite_is_never_valid(observation: Maker) -> None:
    class Undefined(Metric):
        def rows(self, record: RoundRecord) -> Iterator[Row]:
            yield Row(record.round, "nan", math.nan, low=0.0, high=1.0)
            yield Row(record.round, "inf", math.inf, note="without noise")

    nan, inf = Undefined().rows(observation())
    assert (nan.valid, nan.note) == (False, "not defined")
    assert math.isnan(nan.low)
    assert (inf.valid, inf.note) == (False, "without noise")


def test_a_class_without_a_test_image_makes_no_zero(observation: Maker) -> None:
    record = observation()
    kept = record.test_labels < 8
    part = replace(
        perfect(record),
        test_logits=sure_of(record.test_labels)[kept],
        test_labels=record.test_labels[kept],
        class_counts=torch.tensor([[8] * 8 + [0, 0], [0] * 8 + [8, 8], [8] * 10, [0] * 10]),
        triggered=None,
    )
    rows = {r.client: r for r in all_rows(part) if r.metric == "client_accuracy"}
    assert rows[0].value == pytest.approx(1)
    assert all(math.isnan(rows[client].value) and not rows[client].valid for client in (1, 2, 3))
    assert values(part, "fairness_worst_client") == [pytest.approx(1)]
    assert values(part, "fairness_jain") == [pytest.approx(1)]


def test_numbers_of_a_model_that_diverged_are_flagged(
    experiment: Callable[..., Experiment],
) -> None:
    federation = prepare_federation(experiment())
    state = create_state(federation, RuleServer(FedAvg(), len(federation.start)))
    state.parameters.fill_(1e30)  # finite, so that it passes for an update; its logits are not
    config = RoundConfig(0, state.parameters, state.buffers)
    outcome = RoundOutcome(state, config, RoundUpdates([], None, None, []), None)
    rows = measure_round(federation, InProcessBackend(make_trainer(federation)), outcome)
    assert [row for row in rows if not readable(row)] == []
    scored = ("accuracy", "loss", "client_accuracy", "mia_margin_auc", "fairness_mean")
    made = [row for row in rows if row.metric in scored]
    assert {row.metric for row in made} == set(scored)
    assert all(math.isnan(row.value) and row.note == "the model diverged" for row in made)


@every_metric
def test_intervals_enclose_their_value(metric: Metric, observation: Maker) -> None:
    logits = torch.randn(160, 10, generator=generator(0, "pool"))
    tests = torch.randn(30, 10, generator=generator(0, "test"))
    for row in metric.rows(observation(pool_logits=logits, test_logits=tests)):
        if math.isfinite(row.low) or math.isfinite(row.high):
            assert row.low <= row.value <= row.high


@every_metric
def test_a_metric_leaves_what_it_sees_as_it_was(metric: Metric, observation: Maker) -> None:
    record = observation(pool_logits=torch.randn(160, 10, generator=generator(0, "pool")))
    tensors = {k: v.clone() for k, v in vars(record).items() if isinstance(v, Tensor)}
    list(metric.rows(record))
    assert all(torch.equal(getattr(record, name), before) for name, before in tensors.items())


@every_metric
def test_clients_metrics_do_not_disturb_a_metric(metric: Metric, observation: Maker) -> None:
    update = Update(1, torch.zeros(3), {}, 20, {"train_loss": 2.0, "train_accuracy": 0.5})
    assert all(readable(row) for row in metric.rows(observation(updates=(update,))))


def test_what_clients_say_of_their_training_is_kept(observation: Maker) -> None:
    update = Update(1, torch.zeros(3), {}, 20, {"train_loss": 2.0})
    (row,) = [r for r in all_rows(observation(updates=(update,))) if r.metric == "train_loss"]
    assert (row.client, row.value) == (1, 2.0)


def test_a_guessing_model_is_at_chance_everywhere(observation: Maker) -> None:
    record = observation()
    assert values(record, "accuracy") == [0.1]
    assert values(record, "loss") == [pytest.approx(math.log(10), rel=1e-6)]
    for attack in ("loss", "margin"):
        assert set(values(record, f"mia_{attack}_auc")) == {0.5}
        assert values(record, f"mia_{attack}_balanced_accuracy") == [0.5]
        assert values(record, f"mia_{attack}_tpr_at_0.01") == [0.0]
    assert values(record, "mia_shift_auc") == [0.5]


def test_a_perfect_model_is_perfect_everywhere(observation: Maker) -> None:
    record = perfect(observation())
    assert values(record, "accuracy") == [1.0]
    assert values(record, "loss") == [pytest.approx(0, abs=1e-6)]
    rows = [row for row in all_rows(record) if row.metric == "client_accuracy"]
    assert [(row.client, row.value) for row in rows] == [
        (client, pytest.approx(1, rel=1e-12)) for client in range(4)
    ]


def test_a_model_that_knows_its_members_leaks_them_all(observation: Maker) -> None:
    record = perfect(observation())
    for attack in ("loss", "margin"):
        for group in ("all", "protected", "clean"):
            assert set(values(record, f"mia_{attack}_auc", group)) == {1.0}
            assert values(record, f"mia_{attack}_balanced_accuracy", group) == [1.0]
            assert values(record, f"mia_{attack}_tpr_at_0.01", group) == [1.0]


def test_an_even_federation_is_fair(observation: Maker) -> None:
    record = perfect(observation())
    even = {"spread": 0, "jain": 1, "gini": 0, "entropy": 1, "worst_client": 1}
    for name, value in even.items():
        assert values(record, f"fairness_{name}") == [pytest.approx(value, abs=1e-12)]


def test_a_rate_from_too_few_outsiders_is_not_to_be_read(observation: Maker) -> None:
    rows = [row for row in all_rows(observation()) if row.metric == "mia_margin_tpr_at_0.01"]
    assert {row.group for row in rows} == {"all", "protected", "clean"}
    assert not any(row.valid for row in rows)
    assert rows[0].note == "80 outsiders; 300 needed"


def test_costs_are_passed_on(observation: Maker) -> None:
    record = observation(seconds=2.5, bytes_down=7, bytes_up=11, num_failures=3)
    expected = {"seconds": 2.5, "bytes_down": 7, "bytes_up": 11, "failures": 3}
    record = replace(record, cpu_seconds=4.5)
    expected["cpu_seconds"] = 4.5
    assert {name: values(record, name) for name in expected} == {
        name: [value] for name, value in expected.items()
    }
    (peak,) = values(record, "peak_mib")
    assert 10 < peak < 10**6
