"""Clients that fail: their rows, and the failure policy."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clients.faulty import FaultyClient
from fl_sim import Adversary, Data, Experiment, FailurePolicy, run
from fl_sim.flower import client_app
from strategies.fedavg import FedAvg
from strategies.krum import MultiKrum
from strategies.median import CoordinateMedian

Maker = Callable[..., Experiment]
Change = Callable[[RecordDict], RecordDict]


def app_that(change: Change, client: int = 1, times: int = 1000) -> ClientApp:
    """Return the usual app, in which one client's replies are changed, the first few times."""
    app, left = ClientApp(), [times]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reply = client_app.train(message, context)
        order = message.content.config_records["fl_sim"]
        if order["client"] == client and left[0] > 0:
            left[0] -= 1
            return Message(change(reply.content), reply_to=message)
        return reply

    return app


def raising(content: RecordDict) -> RecordDict:
    raise OSError("the disk is gone\nand more")


def wrong_shape(content: RecordDict) -> RecordDict:
    arrays = content.array_records["arrays"].to_torch_state_dict()
    arrays[next(iter(arrays))] = torch.zeros(2, 2)
    content["arrays"] = ArrayRecord(arrays)
    return content


def wrong_keys(content: RecordDict) -> RecordDict:
    content["arrays"] = ArrayRecord({"stranger": torch.zeros(3)})
    return content


def infinite(content: RecordDict) -> RecordDict:
    arrays = content.array_records["arrays"].to_torch_state_dict()
    next(iter(arrays.values())).fill_(torch.inf)
    content["arrays"] = ArrayRecord(arrays)
    return content


def other_metrics(content: RecordDict) -> RecordDict:
    content["metrics"] = MetricRecord({"num-examples": 5, "mood": 1.0})
    return content


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (raising, "OSError: the disk is gone"),
        (wrong_shape, "wrong shape"),
        (wrong_keys, "wrong keys"),
        (infinite, "not finite"),
        (other_metrics, "wrong metrics"),
    ],
)
def test_a_client_that_fails_is_a_row_and_is_left_out(
    experiment: Maker, tmp_path: Path, change: Change, cause: str
) -> None:
    results = run(experiment(), out=tmp_path, client_app=app_that(change))
    assert results.complete
    assert results.failures["round"].tolist() == [1, 2]
    assert results.failures.client.tolist() == [1, 1]
    assert all(cause in own for own in results.failures.cause)
    counted = results.rows[(results.rows.metric == "failures")].value.tolist()
    assert counted == [1, 1]


@pytest.mark.parametrize("strategy", [FedAvg(), CoordinateMedian(), MultiKrum(0)])
def test_a_nan_sender_changes_nothing_but_a_failure_row(
    experiment: Maker, tmp_path: Path, strategy: Any
) -> None:
    data = Data(dataset="digits", num_clients=5, num_samples=300, num_test=60)
    wanted = experiment(strategy=strategy, data=data)
    spoilt = experiment(strategy=strategy, data=data, adversary=Adversary(FaultyClient(), 1))
    results = run(spoilt, out=tmp_path / "a")
    (liar,) = set(results.failures.client)
    without = run(wanted, out=tmp_path / "b", client_app=app_that(raising, client=liar))
    assert results.complete
    assert results.cells.params_sha256[0] == without.cells.params_sha256[0]


def test_a_retried_client_leaves_the_bits_of_a_run_without_failures(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(failures=FailurePolicy("retry", retries=2))
    flaky = run(wanted, out=tmp_path / "a", client_app=app_that(raising, times=2))
    assert len(flaky.failures) == 2
    healthy = run(wanted, out=tmp_path / "b")
    assert flaky.cells.params_sha256[0] == healthy.cells.params_sha256[0]


@pytest.mark.parametrize(
    ("policy", "cause"),
    [
        (FailurePolicy("raise"), "round 1, client 1: OSError: the disk is gone"),
        (FailurePolicy("skip", min_updates=4), "round 1: 3 valid updates, failures.min_updates"),
    ],
)
def test_a_run_that_breaks_off_says_why_and_is_not_complete(
    experiment: Maker, tmp_path: Path, policy: FailurePolicy, cause: str
) -> None:
    wanted = experiment(failures=policy)
    results = run(wanted, out=tmp_path, client_app=app_that(raising))
    assert not results.complete
    assert cause in results.cells.error[0]


def test_what_a_client_claims_to_hold_does_not_count(experiment: Maker, tmp_path: Path) -> None:
    def boasting(content: RecordDict) -> RecordDict:
        claims = dict(content.metric_records["metrics"])
        content["metrics"] = MetricRecord({**claims, "num-examples": 10**6})
        return content

    honest = run(experiment(), out=tmp_path / "a")
    boasted = run(experiment(), out=tmp_path / "b", client_app=app_that(boasting))
    assert boasted.cells.params_sha256[0] == honest.cells.params_sha256[0]
