"""Early stopping: the round it ends, what is measured there, resuming, and the recovery rounds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.ditto import DittoClient
from clients.label_flip import LabelFlipClient
from fl_sim import Adversary, EarlyStop, Evaluation, Experiment, Model, run
from fl_sim.core.errors import FieldError
from fl_sim.metrics.recovery import recovery_rounds
from tests.unit.rounds.test_reproducibility import broken_after, final_bits

Maker = Callable[..., Experiment]
LINEAR = Model("linear")
FIRST = EarlyStop(patience=2, min_change=1.0)  # nothing improves by that much: rounds 2 and 3


def of(results: Any, metric: str) -> list[tuple[int, float]]:
    rows = results.rows[(results.rows["metric"] == metric) & (results.rows["client"] == -1)]
    return list(zip(rows["round"], rows["value"], strict=True))


def test_a_run_ends_once_a_metric_has_not_improved(experiment: Maker, tmp_path: Path) -> None:
    evaluation = Evaluation(contributions="leave_one_out")
    asked = experiment(
        model=LINEAR, rounds=9, stop=FIRST, client=DittoClient(), evaluation=evaluation
    )
    results = run(asked, out=tmp_path, controls=False)
    assert results.complete
    assert results.cells["rounds"].tolist() == [3]
    assert [number for number, _ in of(results, "accuracy")] == [1, 2, 3]
    assert of(results, "stop_round") == [(3, 3.0)]
    (note,) = results.rows[results.rows["metric"] == "stop_round"]["note"]
    assert note == "accuracy has not become higher for 2 evaluations"
    last = results.rows[results.rows["round"] == 3]["metric"]
    assert {"personal_accuracy", "contribution_leave_one_out"} & set(last)
    whole = run(
        experiment(model=LINEAR, rounds=3, client=DittoClient()), out=tmp_path / "b", controls=False
    )
    assert whole.cells["params_sha256"].tolist() == results.cells["params_sha256"].tolist()
    for metric in ("accuracy", "loss"):
        assert of(results, metric) == of(whole, metric)


def test_a_run_that_improves_goes_to_its_last_round(experiment: Maker, tmp_path: Path) -> None:
    asked = experiment(model=LINEAR, rounds=2, stop=EarlyStop("loss", patience=2, better="lower"))
    results = run(asked, out=tmp_path, controls=False)
    row = results.rows[results.rows["metric"] == "stop_round"].iloc[0]
    assert (row["round"], bool(row["valid"]), math.isnan(float(row["value"]))) == (2, False, True)


def test_a_broken_run_stops_where_an_unbroken_one_does(experiment: Maker, tmp_path: Path) -> None:
    asked = experiment(model=LINEAR, rounds=9, stop=FIRST)
    unbroken = final_bits(asked, tmp_path / "a")
    for number in (2, 3):  # in the middle, and after the last round, before results are written
        out = tmp_path / f"b{number}"
        run(asked, out=out, controls=False, listen=broken_after(number))
        assert final_bits(asked, out, resume=True) == unbroken


def test_nan_is_no_improvement_and_no_end_of_waiting() -> None:
    stop = EarlyStop("loss", patience=2, min_change=0.1, better="lower")
    assert not stop.is_over([])
    assert not stop.is_over([1.0, 0.95])
    assert stop.is_over([1.0, 0.95, math.nan])
    assert not stop.is_over([1.0, 0.95, 0.85, 0.8])


def test_wrong_conditions_are_refused(experiment: Maker, tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="better: 'lower' for the metric loss"):
        EarlyStop("loss")
    asked = experiment(model=LINEAR, stop=EarlyStop("acuracy"))
    assert Experiment.from_json(asked.to_json()) == asked
    assert "stop" not in experiment().describe()
    failed = run(asked, out=tmp_path, controls=False)
    assert "stop.metric: one of accuracy, " in str(failed.cells["error"][0])


def test_recovery_is_counted_from_the_last_attack(experiment: Maker, tmp_path: Path) -> None:
    flips = Adversary(LabelFlipClient(), 1, last_round=3, every=2)
    asked = experiment(model=LINEAR, rounds=4, adversary=flips)
    assert asked.last_attack == 3
    attack = run(asked, out=tmp_path).cells.filter(like="attack.").iloc[0]
    number, note = attack["attack.recovery_rounds"], attack["attack.recovery_rounds_note"]
    assert number == 1 or note == "not within 2 points of A_honest by round 4"
    never, reason = recovery_rounds(2, {3: 0.4, 4: 0.5}, {3: 0.7, 4: 0.7})
    assert math.isnan(never)
    assert reason == "not within 2 points of A_honest by round 4"
    never, reason = recovery_rounds(4, {3: 0.4, 4: 0.5}, {3: 0.7, 4: 0.7})
    assert math.isnan(never)
    assert reason == "no round after the attack was evaluated"
