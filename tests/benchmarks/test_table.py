"""Tests of rows, medians and targets."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks import pages, scale
from benchmarks.cases import Case
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
from benchmarks.targets import GPU_TARGETS, TARGETS, W8, Target, Verdict, judge
from benchmarks.workloads import list_all_cases, list_all_gpu_cases

GPU_CASES = list_all_gpu_cases()
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


@pytest.mark.parametrize(
    ("targets", "cases"), [(TARGETS, list_all_cases(full=False)), (GPU_TARGETS, GPU_CASES)]
)
def test_every_target_names_an_existing_case_and_engines(
    targets: tuple[Target, ...], cases: list[Case]
) -> None:
    known = {(case.workload, case.name, engine) for case in cases for engine in case.jobs}
    for target in targets:
        engines = filter(None, (target.engine, target.over, target.minus))
        assert {(target.workload, target.case, engine) for engine in engines} <= known


def test_a_kind_of_gpu_has_a_section_with_ratios_forecasts_and_the_cost_of_determinism(
    tmp_path: Path,
) -> None:
    assert pages.format_gpus(tmp_path) == "Not yet measured on a GPU."
    em = next(case for case in GPU_CASES if case.name.startswith("EM"))
    row = Row("W8", W8, "floor", 1.0, 6.0, 400.0, 5, 0.1)
    rows = [
        row,
        row._replace(engine="local", wall_seconds=1.5),
        row._replace(engine="nondeterministic", wall_seconds=1.25),
        row._replace(engine="pfl", wall_seconds=6.0),
        row._replace(workload="W5", case=em.name, engine="local", wall_seconds=2.0),
    ]
    write_rows(tmp_path / "fast-gpu.json", rows)
    machine = {"accelerator": "Fast GPU", "torch": "2.13.0"}
    (tmp_path / "fast-gpu.machine.json").write_text(json.dumps(machine))
    text = pages.format_gpus(tmp_path)
    assert text.startswith("### Fast GPU\n")
    assert f"| W8 | {W8} | local | 1.5 | 0.25 |  |" in text
    assert f"| W5 | {em.name} | local | 2 |  | {scale.format_time(2 * em.whole)} |" in text
    assert f"| W8, {W8}: pfl / local, wall_seconds | 4 | at least 3 | yes |" in text
    assert f"`--deterministic` in W8, {W8}: 1.20 times as long as without." in text
