"""An invalid reply is the failure of its client only: the others' run keeps its bits."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy as flower
from hypothesis import given
from hypothesis import strategies as st

from clients.canary import CanaryClient
from clients.ditto import DittoClient
from clients.dp_sgd import DpSgdClient
from clients.faulty import Fault, FaultyClient
from clients.ipm import IpmClient
from clients.local_dp import LocalDpClient
from clients.scaffold import ScaffoldClient
from clients.sgd import SgdClient
from clients.worker_momentum import WorkerMomentumClient
from fl_sim import Adversary, Data, Experiment, FailurePolicy, Model, run
from fl_sim.contracts import Update
from fl_sim.data.partition import Iid
from fl_sim.flower import client_app
from fl_sim.results import Results
from fl_sim.rounds import loop, model_checks
from fl_sim.training.tasks import RoundConfig
from fl_sim.training.update_checks import (
    ExpectedUpdate,
    check_replies,
    describe_error,
    make_failure,
)
from strategies.fedavg import FedAvg
from strategies.median import CoordinateMedian
from strategies.q_fedavg import QFedAvg
from strategies.scaffold import SCAFFOLD

Maker = Callable[..., Experiment]
LIAR = 1
SMALL: dict[str, Any] = {
    "data": Data(dataset="digits", num_clients=4, num_samples=100, num_test=20),
    "partition": Iid(),
    "model": Model("linear"),
}
SCAFFOLDED: dict[str, Any] = {"strategy": SCAFFOLD(), "client": ScaffoldClient()}
# What each fault is called in its row, and what the experiment needs for it to matter.
CAUSES: dict[str, tuple[str, dict[str, Any]]] = {
    "nan": ("parameters are not finite", {}),
    "inf": ("parameters are not finite", {}),
    "shape": ("wrong shape of the update", {}),
    "huge": ("parameters are not finite", {}),
    "double": ("wrong type of the update: torch.float64, not torch.float32", {}),
    "half": ("wrong type of the update: torch.float16", {}),
    "complex": ("wrong type of the update: torch.complex64", {}),
    "sparse": ("wrong type of the update: torch.sparse_coo", {}),
    "gradient": ("it requires a gradient", {}),
    "loss": ("the loss is no number: NoneType", {"strategy": QFedAvg()}),
    "metrics": ("wrong metrics: train_loss is no number: str", {}),
    "buffers": ("running_", {"model": Model("tiny_cnn")}),
    "extra": ("sent 'stranger', which Client.sent_shapes does not name", {}),
    "fewer": ("sent no 'control' beside the update", SCAFFOLDED),
    "memory": ("what it keeps as 'faulty' is no tensor: str", {}),
    "client": ("answered as client 99, not 1", {}),
    "update": ("sent no update: dict", {}),
    "nothing": ("no reply", {}),
    "raise": ("OSError: the disk is gone \ufffd\ufffd[2J", {}),
    "exit": ("SystemExit: 3", {}),
}
SILENT: dict[str, str] = {}  # bits of runs without the liar
HARMLESS = {"count", "stale", "twice"}  # of which the first reply counts
STRATEGIES = [
    FedAvg(),
    CoordinateMedian(),
    flower.FedAvg(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0),
]


def finished(experiment: Experiment, out: Path, **options: Any) -> Results:
    results = run(experiment, out=out, controls=False, **options)
    assert results.complete, results.cells.error.tolist()
    return results


def bits(results: Results) -> str:
    return str(results.cells.params_sha256[0])


def broken(wanted: Experiment, fault: str) -> Experiment:
    return replace(wanted, adversary=Adversary(FaultyClient(fault), clients=(LIAR,)))  # type: ignore[arg-type]


def without_the_liar(wanted: Experiment, out: Path, **options: Any) -> str:
    """Return the bits of a run in which the client simply never answers."""
    key = wanted.to_json() + str(options)
    if key not in SILENT:
        results = finished(broken(wanted, "nothing"), out, **options)
        assert results.failures.cause.tolist() == ["no reply"] * wanted.rounds
        SILENT[key] = bits(results)
    return SILENT[key]


def test_every_fault_is_in_the_table() -> None:
    assert set(CAUSES) | HARMLESS == set(get_args(Fault))


@pytest.mark.parametrize("fault", CAUSES)
def test_a_fault_in_process_is_a_row_and_the_run_that_of_the_others(
    experiment: Maker, tmp_path: Path, fault: str
) -> None:
    cause, needed = CAUSES[fault]
    wanted = experiment(**(SMALL | needed))
    results = finished(broken(wanted, fault), tmp_path / "a")
    assert results.failures.client.tolist() == [LIAR] * 2
    assert all(cause in own for own in results.failures.cause), results.failures.cause[0]
    assert bits(results) == without_the_liar(wanted, tmp_path / "b")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda own: type(own).__module__)
@pytest.mark.parametrize("fault", ["double", "metrics", "exit"])
def test_it_is_the_same_under_every_kind_of_strategy(
    experiment: Maker, tmp_path: Path, strategy: Any, fault: str
) -> None:
    wanted = experiment(**SMALL, strategy=strategy)
    results = finished(broken(wanted, fault), tmp_path / "a")
    assert results.failures.client.tolist() == [LIAR] * 2
    assert bits(results) == without_the_liar(wanted, tmp_path / "b")


@pytest.mark.parametrize("fault", ["double", "raise", "exit"])
def test_it_is_the_same_beside_a_batch(experiment: Maker, tmp_path: Path, fault: str) -> None:
    wanted = experiment(**SMALL)
    results = finished(broken(wanted, fault), tmp_path / "a", batch_clients="on")
    assert results.failures.client.tolist() == [LIAR] * 2
    assert bits(results) == without_the_liar(wanted, tmp_path / "b", batch_clients="on")


@pytest.mark.ray
@pytest.mark.parametrize("fault", CAUSES)
def test_it_is_the_same_on_rays_workers(experiment: Maker, tmp_path: Path, fault: str) -> None:
    wanted = broken(experiment(**(SMALL | CAUSES[fault][1])), fault)
    here = finished(wanted, tmp_path / "a")
    there = finished(wanted, tmp_path / "b", engine="ray", workers=2)
    assert bits(there) == bits(here)
    assert there.failures.cause.tolist() == here.failures.cause.tolist()


@pytest.mark.parametrize("fault", ["exit", "double"])
def test_the_policy_decides_what_a_fault_does(
    experiment: Maker, tmp_path: Path, fault: str
) -> None:
    def with_policy(policy: FailurePolicy) -> Results:
        wanted = broken(experiment(**SMALL, failures=policy), fault)
        return run(wanted, out=tmp_path / policy.on_failure, controls=False)

    ended = with_policy(FailurePolicy("raise"))
    assert "RunFailedError: round 1, client 1: " in ended.cells.error[0]
    again = with_policy(FailurePolicy("retry", retries=1))
    assert again.failures.client.tolist() == [LIAR] * 4


def test_a_keyboard_interrupt_is_not_the_clients(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(FaultyClient, "replies", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(broken(experiment(**SMALL), "nan"), out=tmp_path, controls=False)


def test_a_client_that_sends_no_control_variate_leaves_scaffold_as_it_is(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(**SMALL, **SCAFFOLDED, rounds=3)
    results = finished(broken(wanted, "fewer"), tmp_path / "a")
    plain = replace(wanted, strategy=FedAvg(), client=SgdClient(momentum=0.0))
    assert bits(results) != without_the_liar(plain, tmp_path / "b")


def test_the_first_client_of_a_round_is_believed_no_more_than_others(
    experiment: Maker, tmp_path: Path
) -> None:
    fewer = Adversary(FaultyClient("fewer"), clients=(0,))
    results = finished(experiment(**SMALL, **SCAFFOLDED, adversary=fewer), tmp_path)
    assert results.failures.client.tolist() == [0, 0]


def test_what_a_client_of_a_batch_sends_instead_counts(experiment: Maker, tmp_path: Path) -> None:
    everybody = Adversary(CanaryClient(length=3.0), num_clients=4)
    results = finished(experiment(**SMALL, adversary=everybody), tmp_path, batch_clients="on")
    rows = results.rows[results.rows.metric == "update_norm"]
    assert rows.value.tolist() == pytest.approx([3.0] * 8)


# What a client keeps, the server hands back, and reads in turn.

FORGED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "short": lambda own: torch.zeros(3),
    "nan": lambda own: own.float() * math.nan,
    "negative": lambda own: -1 - own.abs(),
    "huge": lambda own: own * 0 + 2**62,
}


@pytest.mark.parametrize(
    ("client", "forged"),
    [
        (WorkerMomentumClient(), "short"),
        (WorkerMomentumClient(), "nan"),
        (DittoClient(), "short"),
        (DittoClient(), "nan"),
        (DpSgdClient(batch_size=8), "short"),
        (DpSgdClient(batch_size=8), "negative"),
        (DpSgdClient(batch_size=8), "huge"),
        (LocalDpClient(), "nan"),
    ],
)
def test_a_memory_that_is_forged_is_the_matter_of_its_client(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Any, forged: str
) -> None:
    """Its client fails next time, or trains as ever; what was to be read of it is no number."""

    def replies(self: Any, update: Update, shard: Any) -> tuple[Update, ...]:
        if shard.client != LIAR:
            return (update,)
        kept = {name: FORGED[forged](own) for name, own in update.memory.items()}
        return (replace(update, memory=kept),)

    for own in (SgdClient, DittoClient, DpSgdClient, LocalDpClient):
        monkeypatch.setattr(own, "replies", replies)
    mode: dict[str, Any] = {"batch_clients": "on"} if type(client) is WorkerMomentumClient else {}
    results = finished(experiment(**SMALL, client=client), tmp_path, **mode)
    assert set(results.failures.client) <= {LIAR}
    read = results.rows[(results.rows.client == LIAR) & results.rows.valid]
    numbers = read[read.metric.isin(["epsilon", "personal_accuracy"])].value
    assert forged != "short" or numbers.empty
    assert all(map(math.isfinite, numbers))


# What colluders forge is sent too.


@pytest.mark.parametrize(
    ("made", "cause"),
    [
        (lambda own: own * math.nan, "parameters are not finite"),
        (lambda own: torch.full_like(own, 3.4e38), "parameters are not finite"),
        (lambda own: own.double() + 1e300, "parameters are not finite"),
        (lambda own: own[:, :-1], "wrong shape of what was forged"),
        (lambda own: own.long(), "wrong type of what was forged"),
        (lambda own: None, "wrong shape of what was forged: NoneType"),
        (lambda own: exit(3), "SystemExit: 3"),
    ],
)
def test_what_is_forged_is_checked_as_well(
    experiment: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    made: Callable[[Any], Any],
    cause: str,
) -> None:
    monkeypatch.setattr(IpmClient, "forge", lambda self, seen: made(seen.own))
    wanted = experiment(**SMALL)
    colluding = replace(wanted, adversary=Adversary(IpmClient(), clients=(LIAR,)))
    results = finished(colluding, tmp_path / "a")
    assert results.failures.client.tolist() == [LIAR] * 2
    assert all(cause in own for own in results.failures.cause)
    stacked = replace(wanted, strategy=flower.FedAvg(min_train_nodes=1, min_available_nodes=1))
    other = replace(stacked, adversary=colluding.adversary)
    forged = bits(finished(other, tmp_path / "b"))
    assert forged == without_the_liar(stacked, tmp_path / "c")


# A user's own ClientApp.


def app_that(change: Callable[[RecordDict], RecordDict], base: Any = None) -> ClientApp:
    """Return the usual app, in which one client's replies are changed."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if message.content.config_records["fl_sim"]["client"] != LIAR:
            return client_app.train(message, context)
        return Message(change(client_app.train(message, context).content), reply_to=message)

    return app


def silent(content: RecordDict) -> RecordDict:
    raise OSError("gone")


def arrays_of(convert: Callable[[torch.Tensor], Any]) -> Callable[[RecordDict], RecordDict]:
    def change(content: RecordDict) -> RecordDict:
        own = content.array_records["arrays"].to_torch_state_dict()
        arrays = {n: Array.from_numpy_ndarray(convert(t).numpy()) for n, t in own.items()}
        content["arrays"] = ArrayRecord(arrays)
        return content

    return change


def mislabelled(content: RecordDict) -> RecordDict:
    """Say that there are as many values as there should be, and send one."""
    arrays = content.array_records["arrays"]
    for array in arrays.values():
        array.data = Array.from_numpy_ndarray(torch.zeros(1).numpy()).data
    return content


def told(about: dict[str, Any]) -> Callable[[RecordDict], RecordDict]:
    def change(content: RecordDict) -> RecordDict:
        content["buffers"] = ConfigRecord({**content.config_records["buffers"], **about})
        return content

    return change


def measured(numbers: dict[str, Any]) -> Callable[[RecordDict], RecordDict]:
    def change(content: RecordDict) -> RecordDict:
        content["metrics"] = MetricRecord(numbers)
        return content

    return change


def leaves(content: RecordDict) -> RecordDict:
    raise SystemExit(3)


GARBAGE: dict[str, tuple[Callable[[RecordDict], RecordDict], str]] = {
    "float64": (arrays_of(lambda own: own.double() + 1e300), "wrong type of"),
    "float16": (arrays_of(lambda own: own.half()), "wrong type of"),
    "complex": (arrays_of(lambda own: own + 0j), "wrong type of"),
    "whole numbers": (arrays_of(lambda own: own.long()), "wrong type of"),
    "huge": (arrays_of(lambda own: own * 0 + 3.4e38), "parameters are not finite"),
    "one value for all": (mislabelled, "wrong shape of"),
    "no arrays": (lambda own: RecordDict(), "wrong content: 0 records of arrays"),
    "not finite": (measured({"num-examples": 3, "train_loss": math.inf}), "wrong metrics"),
    "too large": (measured({"num-examples": 3, "train_loss": 10**400}), "wrong metrics"),
    "no count": (measured({"train_loss": 1.0}), "wrong metrics: no num-examples"),
    "stranger": (told({"sent": b"garbage"}), "wrong buffers"),
    "no loss": (told({"loss": "low"}), "wrong loss: str"),
    "exit": (leaves, "SystemExit: 3"),
}


QUICK = {"float64", "huge", "no count", "exit"}  # the others are tried with the slow tests


@pytest.mark.parametrize(
    "garbage",
    [own if own in QUICK else pytest.param(own, marks=pytest.mark.slow) for own in GARBAGE],
)
def test_what_a_users_app_sends_is_checked_alike(
    experiment: Maker, tmp_path: Path, garbage: str
) -> None:
    change, cause = GARBAGE[garbage]
    wanted = experiment(**SMALL)
    results = finished(wanted, tmp_path / "a", client_app=app_that(change))
    assert results.failures.client.tolist() == [LIAR] * 2
    assert all(cause in own for own in results.failures.cause), results.failures.cause[0]
    gone = finished(wanted, tmp_path / "b", client_app=app_that(silent))
    assert bits(results) == bits(gone)


@pytest.mark.slow
def test_losses_that_flowers_strategies_weigh_by_are_checked(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative one has no power, and would spoil the model; who holds nothing has none at all."""
    told = {"train_loss": -1.0, "train_accuracy": 0.5}
    monkeypatch.setattr(FaultyClient, "replies", lambda self, own, _: (replace(own, metrics=told),))
    strategy = flower.QFedAvg(
        client_learning_rate=0.1, q=0.5, min_train_nodes=1, min_available_nodes=1
    )
    beside = Adversary(IpmClient(), beside=True)
    liar = Adversary(FaultyClient("count"), clients=(LIAR,))
    wanted = experiment(**SMALL, strategy=strategy, adversary=(liar, beside), rounds=1)
    results = finished(wanted, tmp_path)
    assert results.failures.cause.tolist() == ["wrong metrics: train_loss is -1.0"]


def test_an_app_that_sends_no_message_is_a_failure(experiment: Maker, tmp_path: Path) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if message.content.config_records["fl_sim"]["client"] == LIAR:
            return "a letter"  # type: ignore[return-value]
        return client_app.train(message, context)

    results = finished(experiment(**SMALL), tmp_path, client_app=app)
    assert results.failures.client.tolist() == [LIAR] * 2


def test_a_claim_among_the_metrics_buys_nothing(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(**SMALL, strategy=STRATEGIES[2])
    honest = bits(finished(wanted, tmp_path / "a", batch_clients="off"))

    def boasting(self: Any, update: Update, shard: Any) -> tuple[Update, ...]:
        return (forced(update, {"metrics": {**update.metrics, "num-examples": 10**9}}),)

    everybody = replace(wanted, adversary=Adversary(FaultyClient("twice"), num_clients=4))
    monkeypatch.setattr(FaultyClient, "replies", boasting)
    assert bits(finished(everybody, tmp_path / "b")) == honest


# The check by itself.


def asked(sends: dict[str, tuple[int, ...]] | None = None, losses: bool = False) -> ExpectedUpdate:
    buffers = {
        "1.running_mean": torch.zeros(2),
        "1.running_var": torch.ones(2),
        "1.num_batches_tracked": torch.tensor(3),
    }
    config = RoundConfig(5, torch.zeros(4), buffers, needs_losses=losses)
    return ExpectedUpdate(config, 7, 10, sends or {})


def update(**fields: Any) -> Update:
    usual: dict[str, Any] = {
        "client": 7,
        "delta": torch.ones(4),
        "buffers": {n: b.clone() for n, b in asked().config.buffers.items()},
        "num_examples": 10,
        "metrics": {"train_loss": 1.0},
    }
    return forced(Update(**usual), fields)


def forced(made: Update, fields: dict[str, Any]) -> Update:
    """Return an update with other fields, whatever their type: a message is not checked."""
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def with_buffer(name: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**update().buffers, f"1.{name}": value}


def test_what_is_in_order_passes_in_plain_form() -> None:
    (passed,) = check_replies((update(num_examples=10**9, loss=None),), asked())
    assert isinstance(passed, Update)
    assert (passed.num_examples, passed.norm) == (10, 2.0)
    assert math.isnan(passed.loss)  # nobody asked for it
    (nan,) = check_replies((update(metrics={"train_loss": math.nan}),), asked())
    assert isinstance(nan, Update)


@pytest.mark.parametrize(
    "fields",
    [
        {"delta": None},
        {"delta": [1.0, 1.0, 1.0, 1.0]},
        {"delta": torch.ones(1)},
        {"delta": torch.ones(4, device="meta")},
        {"delta": torch.ones(4, dtype=torch.int64)},
        {"delta": torch.full((4,), 1e300, dtype=torch.float64)},
        {"delta": torch.full((4,), 1e19)},
        {"delta": torch.nn.Parameter(torch.ones(4))},
        {"delta": torch.ones(4).to_sparse()},
        {"client": True},
        {"client": "7"},
        {"buffers": None},
        {"buffers": {}},
        {"buffers": with_buffer("running_var", torch.tensor([1.0, -1e-3]))},
        {"buffers": with_buffer("running_var", torch.tensor([1.0, math.nan]))},
        {"buffers": with_buffer("running_mean", torch.tensor([1.0, 3e38]))},
        {"buffers": with_buffer("running_mean", torch.zeros(2, dtype=torch.float64))},
        {"buffers": with_buffer("running_mean", torch.zeros(3))},
        {"buffers": with_buffer("num_batches_tracked", torch.tensor(-1))},
        {"buffers": with_buffer("num_batches_tracked", torch.tensor(2**62))},
        {"metrics": None},
        {"metrics": {3: 1.0}},
        {"metrics": {"\ud800": 1.0}},
        {"metrics": {"a\nb": 1.0}},
        {"metrics": {"x": "1.0"}},
        {"metrics": {"x": None}},
        {"metrics": {"x": 10**400}},
        {"metrics": {"x": -1e308}},
        {"metrics": {"x": torch.ones(())}},
        {"metrics": {f"x{i}": 1.0 for i in range(1000)}},
        {"sent": {"y": torch.ones(4)}},
        {"sent": None},
        {"memory": {"\ud800": torch.ones(1)}},
        {"memory": {"z": torch.ones(2, dtype=torch.complex64)}},
        {"memory": {"z": torch.ones(2).to_sparse()}},
        {"memory": {"z": torch.zeros(1).expand(10**12)}},  # takes no room until it is stored
        {"memory": [1]},
    ],
    ids=str,
)
def test_what_cannot_be_used_is_one_failure_of_the_client_that_was_asked(
    fields: dict[str, Any],
) -> None:
    (found,) = check_replies((update(**fields),), asked())
    assert (found.client, found.round) == (7, 5)  # type: ignore[union-attr]
    assert found.cause.isprintable()  # type: ignore[union-attr]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -0.1, 1e308, None, "1", torch.ones(())])
def test_losses_that_are_no_cross_entropies_fail_where_a_rule_reads_them(loss: Any) -> None:
    (found,) = check_replies((update(loss=loss),), asked(losses=True))
    assert "loss" in found.cause  # type: ignore[union-attr]
    (kept,) = check_replies((update(loss=2.5),), asked(losses=True))
    assert kept.loss == 2.5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "sent", [{}, {"c": torch.ones(3)}, {"c": torch.ones(4).double()}, {"c": torch.ones(4) / 0}]
)
def test_vectors_beside_the_update_are_those_that_the_server_expects(sent: Any) -> None:
    (found,) = check_replies((update(sent=sent),), asked({"c": (4,)}))
    assert "'c'" in found.cause  # type: ignore[union-attr]
    (kept,) = check_replies((update(sent={"c": torch.ones(4)}),), asked({"c": (4,)}))
    assert isinstance(kept, Update)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=4,
)
FIELDS = ["client", "delta", "buffers", "metrics", "loss", "sent", "memory", "num_examples", "norm"]


@given(field=st.sampled_from(FIELDS), value=anything)
def test_nothing_that_a_client_sends_raises(field: str, value: Any) -> None:
    (found,) = check_replies((update(**({"loss": 1.0} | {field: value})),), asked(losses=True))
    if isinstance(found, Update):
        assert found.client == 7
        assert math.isfinite(found.norm)
        assert all(type(own) is float for own in found.metrics.values())


@given(replies=anything)
def test_nothing_that_is_no_reply_raises(replies: Any) -> None:
    assert all(not isinstance(own, Update) for own in check_replies(replies, asked()))


@given(cause=st.text(st.characters()))
def test_causes_are_one_line_that_can_be_stored(cause: str) -> None:
    own = make_failure(1, 2, cause).cause
    assert own.encode().decode() == own
    assert len(own.splitlines()) <= 1


def test_a_message_that_cannot_be_read_is_said_so() -> None:
    class Nameless(type):
        @property
        def __name__(cls) -> str:
            raise RuntimeError

    class OddError(Exception, metaclass=Nameless):
        def __str__(self) -> str:
            raise SystemExit(9)

    assert describe_error(OddError()) == "OddError: (its message cannot be read)"


# The model after the step.

PLAIN = Model("small_cnn", norm="off")
# In which round, by whom, and how.
DIVERGING: dict[str, tuple[tuple[int, str], dict[str, Any]]] = {
    "every client": ((1, "0 valid updates"), {"client": SgdClient(learning_rate=1e20)}),
    "scores": (
        (2, "most likely by client"),
        {"client": SgdClient(learning_rate=1e4, momentum=0.0), "model": PLAIN},
    ),
    "private": (
        (2, "most likely by client"),
        {"client": DpSgdClient(clipping_norm=1e11), "model": Model("mlp")},
    ),
    "server": (
        (1, "most likely by the rule itself"),
        {**SCAFFOLDED, "strategy": SCAFFOLD(server_learning_rate=1e11), "model": PLAIN},
    ),
}


@pytest.mark.parametrize("every", [1, pytest.param(5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DIVERGING)
def test_a_model_that_diverges_fails_the_run_in_its_round(
    experiment: Maker, tmp_path: Path, name: str, every: int
) -> None:
    from fl_sim.experiment import Evaluation

    wanted = experiment(
        **(SMALL | DIVERGING[name][1]), rounds=3, evaluation=Evaluation(every=every)
    )
    results = run(wanted, out=tmp_path, controls=False)
    assert not results.complete
    assert results.cells.status.tolist() == ["failed"]
    number, who = DIVERGING[name][0]
    assert f"round {number}: " in results.cells.error[0]
    assert who in results.cells.error[0]


def test_a_run_that_diverges_keeps_its_last_good_round_and_leaves_its_rows(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = experiment(**SMALL, rounds=3)
    whole = bits(finished(wanted, tmp_path / "whole"))

    def spoilt(number: int, parameters: torch.Tensor, *others: Any) -> None:
        parameters = parameters / 0 if number == 3 else parameters
        check(number, parameters, *others)

    check = model_checks.check_step
    with monkeypatch.context() as patch:
        patch.setattr(loop, "check_step", spoilt)
        broken_off = run(wanted, out=tmp_path / "a", controls=False)
    assert "DivergedError: round 3: the new model cannot be used" in broken_off.cells.error[0]
    assert "most likely by client" in broken_off.cells.error[0]
    assert sorted(set(broken_off.rows["round"])) == [1, 2]
    kept = sorted((tmp_path / "a").rglob("round-*.safetensors"))
    assert [path.name for path in kept] == ["round-000001.safetensors", "round-000002.safetensors"]
    assert bits(finished(wanted, tmp_path / "a", resume=True)) == whole


def test_a_long_update_that_spoils_the_model_is_named(experiment: Maker, tmp_path: Path) -> None:
    from clients.scaling import ScalingClient

    far = Adversary(ScalingClient(factor=1e17), clients=(2,))
    fields = SMALL | {"model": Model("small_cnn", norm="off")}
    results = run(experiment(**fields, adversary=far), out=tmp_path, controls=False)
    assert "round 1" in results.cells.error[0]
    assert "most likely by client 2" in results.cells.error[0]


@pytest.fixture(scope="module", autouse=True)
def no_ray_left() -> Iterator[None]:
    """Leave no worker behind, where there was any."""
    yield
    import sys

    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
