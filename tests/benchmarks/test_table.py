"""Tests of rows, medians and targets."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.race import EngineCost, Sample
from benchmarks.table import (
    Row,
    make_row,
    make_targets_table,
    make_times_table,
    merge_rows,
    quantile,
    write_rows,
)
from benchmarks.targets import TARGETS, Target, Verdict, judge
from benchmarks.workloads import list_all_cases

ROW = Row("W1", "tiny CNN, 10 per round", "floor", 2.0, 2.5, 400.0, 5, 0.1)


def shown(*tables: object) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*tables)
    return captured.get()


def test_a_row_holds_medians_and_the_spread_between_quartiles() -> None:
    costs = [4.0, 1.0, 2.0, 3.0, 10.0]
    outcome = EngineCost([Sample(cpu, 2 * cpu) for cpu in costs], 123.45)
    row = make_row("W1", "a case", "local", outcome)
    assert (row.cpu_seconds, row.wall_seconds, row.runs, row.peak_mib) == (3.0, 6.0, 5, 123.5)
    low, high = np.percentile(costs, [25, 75])
    assert row.spread == pytest.approx((high - low) / 3.0)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 0.5, 1.0])
def test_quantiles_are_those_of_numpy(share: float) -> None:
    values = [3.0, 1.0, 7.0, 2.0]
    assert quantile(values, share) == pytest.approx(np.quantile(values, share))
    assert quantile([5.0], share) == 5.0


def test_a_workload_measured_again_replaces_its_rows_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    other = ROW._replace(workload="W2")
    write_rows(path, [ROW, ROW._replace(engine="local"), other])
    assert merge_rows(path, [ROW._replace(cpu_seconds=9.0)]) == [
        other,
        ROW._replace(cpu_seconds=9.0),
    ]


def test_the_file_has_one_object_per_row_with_all_columns(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.json", [ROW])
    (entry,) = json.loads((tmp_path / "results.json").read_text())
    assert list(entry) == (
        ["workload", "case", "engine", "cpu_seconds", "wall_seconds", "peak_mib", "runs", "spread"]
    )
    assert Row(**entry) == ROW


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (Target("W", "c", "local", 3.0), 3.0, Verdict.PASS),
        (Target("W", "c", "local", 2.9), 3.0, Verdict.FAIL),
        (Target("W", "c", "local", 0.5, over="floor"), 0.5, Verdict.PASS),
        (Target("W", "c", "floor", 2.1, over="local", at_least=True), 2.0, Verdict.FAIL),
        (Target("W", "c", "floor", 2.0, over="local", at_least=True), 2.0, Verdict.PASS),
        (Target("W", "c", "floor", 2.0, minus="local"), 3.0, Verdict.FAIL),
    ],
)
def test_a_target_compares_with_its_bound(target: Target, value: float, verdict: Verdict) -> None:
    numbers = {("W", "c", "local"): 3.0, ("W", "c", "floor"): 6.0}
    assert judge(target, numbers) == (verdict, value)


def test_missing_measurements_give_no_verdict() -> None:
    target = Target("W", "c", "local", 1.0, over="floor")
    assert judge(target, {("W", "c", "local"): 3.0})[0] is Verdict.UNKNOWN
    assert judge(target, {("W", "c", "floor"): 3.0})[0] is Verdict.UNKNOWN


def test_tables_show_ratios_and_verdicts() -> None:
    text = shown(make_times_table([ROW, ROW._replace(engine="local", cpu_seconds=1.5)]))
    assert "0.75" in text
    text = shown(make_targets_table([ROW, ROW._replace(engine="local", cpu_seconds=1.5)]))
    assert "yes" in text
    assert "NO" in shown(make_targets_table([ROW, ROW._replace(engine="local", cpu_seconds=1.7)]))


def test_every_target_names_an_existing_case_and_engines() -> None:
    known = {
        (case.workload, case.name, e) for case in list_all_cases(full=False) for e in case.jobs
    }
    for target in TARGETS:
        engines = filter(None, (target.engine, target.over, target.minus))
        assert {(target.workload, target.case, engine) for engine in engines} <= known
