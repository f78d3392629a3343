"""Rows of results, medians and spreads, on disk and in the terminal."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table

from benchmarks.race import EngineCost
from benchmarks.targets import TARGETS, Column, Target, Verdict, judge
from fl_sim.core.atomic_io import write_json


class Row(NamedTuple):
    """Cost of one engine in one case: medians over its turns.

    `spread` is the interquartile range of the CPU seconds as a share of their median; `peak_mib` is
    the largest memory of the process tree in any turn.
    """

    workload: str
    case: str
    engine: str
    cpu_seconds: float
    wall_seconds: float
    peak_mib: float
    runs: int
    spread: float


def make_row(workload: str, case: str, engine: str, outcome: EngineCost) -> Row:
    """Return the row of an engine with at least one sample."""
    cpu, wall = zip(*outcome.samples, strict=True)
    peak, runs = round(outcome.peak_mib, 1), len(cpu)
    middle = median(cpu)
    share = (quantile(cpu, 0.75) - quantile(cpu, 0.25)) / middle if middle else 0.0
    return Row(workload, case, engine, middle, median(wall), peak, runs, share)


def quantile(values: Iterable[float], share: float) -> float:
    """Return a quantile by linear interpolation."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def merge_rows(path: Path, rows: list[Row]) -> list[Row]:
    """Return `rows` after those of a file whose workloads are not in `rows`.

    The rows of one workload therefore always come from one run.
    """
    if not path.exists():
        return rows
    anew = {row.workload for row in rows}
    before = [Row(**entry) for entry in json.loads(path.read_text())]
    return [row for row in before if row.workload not in anew] + rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as the JSON file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content: list[dict[str, Any]] = [
        {k: round(v, 6) if isinstance(v, float) else v for k, v in row._asdict().items()}
        for row in rows
    ]
    write_json(path, content)


def make_times_table(rows: list[Row], column: Column = "cpu_seconds") -> Table:
    """Return a table of all rows, each engine relative to the plain loop of its case."""
    table = Table(title="a round, or a run: medians of the process tree")
    for name in ("workload", "case", "engine", "CPU s", "x floor", "wall s", "MiB", "runs", "±"):
        table.add_column(
            name, justify="left" if name in ("workload", "case", "engine") else "right"
        )
    floors = {
        (row.workload, row.case): getattr(row, column) for row in rows if row.engine == "floor"
    }
    last = ""
    for row in rows:
        floor = floors.get((row.workload, row.case))
        if last not in ("", f"{row.workload} {row.case}"):
            table.add_section()
        last = f"{row.workload} {row.case}"
        table.add_row(
            row.workload,
            row.case,
            row.engine,
            f"{row.cpu_seconds:.4g}",
            f"{getattr(row, column) / floor:.2f}" if floor else "",
            f"{row.wall_seconds:.4g}",
            f"{row.peak_mib:.0f}",
            str(row.runs),
            f"{row.spread:.0%}",
        )
    return table


def make_targets_table(rows: list[Row], targets: Sequence[Target] = TARGETS) -> Table:
    """Return a table of targets, measurements and verdicts."""
    table = Table(title="targets")
    for name in ("target", "measured", "wanted", ""):
        table.add_column(name, justify="left" if name in ("target", "") else "right")
    colours = {"yes": "[green]yes", "no": "[red]NO"}
    for target, measured, wanted, verdict in judge_targets(rows, targets):
        table.add_row(target, measured, wanted, colours[verdict])
    return table


def judge_targets(
    rows: list[Row], targets: Sequence[Target] = TARGETS
) -> Iterator[tuple[str, str, str, str]]:
    """Yield each measured target: its name, the number, the bound, yes or no."""
    columns: dict[Column, dict[tuple[str, str, str], float]] = {
        "cpu_seconds": {(r.workload, r.case, r.engine): r.cpu_seconds for r in rows},
        "wall_seconds": {(r.workload, r.case, r.engine): r.wall_seconds for r in rows},
        "peak_mib": {(r.workload, r.case, r.engine): r.peak_mib for r in rows},
    }
    for target in targets:
        verdict, value = judge(target, columns[target.column])
        if verdict is not Verdict.UNKNOWN:
            sign = "at least" if target.at_least else "at most"
            met = "yes" if verdict is Verdict.PASS else "no"
            yield str(target), f"{value:.3g}", f"{sign} {target.limit:.4g}", met
