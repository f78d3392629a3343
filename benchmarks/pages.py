"""Tables of the documentation; `python -m benchmarks.pages` rebuilds them from the results."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import scale
from benchmarks.rules import RESULTS as RULES
from benchmarks.rules import format_cells
from benchmarks.table import Row, judge_targets
from benchmarks.targets import GPU_TARGETS
from benchmarks.workloads import list_all_gpu_cases
from fl_sim.core.atomic_io import write_text

DOCS, RESULTS = Path(__file__).parents[1] / "docs", Path(__file__).with_name("results.json")
GPU_RESULTS = Path(__file__).with_name("gpu")  # a file for each kind of device
NOT_MEASURED = "Not yet measured on a GPU."


class GeneratedTable(NamedTuple):
    """A table in a page that is generated from a file of results."""

    page: str
    mark: str
    results: Path
    fill: Callable[[Any], str]


def format_targets(rows: list[dict[str, Any]]) -> str:
    """Return targets and measurements as a Markdown table."""
    lines = ["| target | measured | wanted | |", "|---|---|---|---|"]
    match = judge_targets([Row(**row) for row in rows])
    lines += ["| " + " | ".join(judgement) + " |" for judgement in match]
    return "\n".join(lines)


def format_rules(rows: list[dict[str, Any]]) -> str:
    """Return the costs of rules as a Markdown table."""
    names = [name.replace("_", " ") for name in rows[0]]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(format_cells(row)) + " |" for row in rows]
    return "\n".join(lines)


def format_gpus(folder: Path) -> str:
    """Return the results of each kind of device as a section with tables."""
    files = sorted(path for path in folder.glob("*.json") if path.suffixes == [".json"])
    return "\n\n".join(map(_format_gpu, files)) or NOT_MEASURED


def _format_gpu(path: Path) -> str:
    rows = [Row(**row) for row in json.loads(path.read_text())]
    machine = json.loads(path.with_suffix(".machine.json").read_text())
    whole = {(case.workload, case.name): case.whole for case in list_all_gpu_cases()}
    floors = {(row.workload, row.case): row.wall_seconds for row in rows if row.engine == "floor"}
    header = ("workload", "case", "engine", "wall seconds", "/ floor", "whole job")
    lines = [f"### {machine['accelerator']}", "", f"PyTorch {machine['torch']}.", ""]
    lines += [_join(header), "|---" * len(header) + "|"]
    for row in rows:
        key = row.workload, row.case
        ratio = f"{row.wall_seconds / floors[key]:.2f}" if key in floors else ""
        turns = whole.get(key, 1.0)
        forecast = scale.format_time(turns * row.wall_seconds) if turns > 1 else ""
        lines.append(_join((*key, row.engine, f"{row.wall_seconds:.3g}", ratio, forecast)))
    lines += ["", "| target | measured | wanted | |", "|---|---|---|---|"]
    lines += map(_join, judge_targets(rows, GPU_TARGETS))
    return "\n".join([*lines, "", *describe_determinism(rows)])


def _join(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def describe_determinism(rows: list[Row]) -> list[str]:
    """Return the cost of `--deterministic` in words, one line per case that was measured."""
    seconds = {(row.workload, row.case, row.engine): row.wall_seconds for row in rows}
    return [
        f"`--deterministic` in {workload}, {case}: {ours / free:.2f} times as long as without."
        for (workload, case, engine), ours in seconds.items()
        if engine == "local" and (free := seconds.get((workload, case, "nondeterministic")))
    ]


SPOTS = (
    GeneratedTable("scale.md", "overhead", RESULTS, scale.format_tables),
    GeneratedTable("benchmarks.md", "targets", RESULTS, format_targets),
    GeneratedTable("benchmarks.md", "rules", RULES, format_rules),
)


def write_table(table: GeneratedTable, docs: Path) -> None:
    """Write a table between its marks; leave the page unchanged if there are no results."""
    if not table.results.exists():
        return
    write_marked(docs / table.page, table.mark, table.fill(json.loads(table.results.read_text())))


def write_marked(page: Path, mark: str, filled: str) -> None:
    """Write text between two marks of a page."""
    marks = re.compile(f"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    text = page.read_text()
    write_text(page, marks.sub(lambda match: f"{match[1]}{filled}\n{match[2]}", text))


if __name__ == "__main__":
    for each in SPOTS:
        write_table(each, DOCS)
    write_marked(DOCS / "benchmarks.md", "gpus", format_gpus(GPU_RESULTS))
    print("rebuilt the tables of docs/scale.md and docs/benchmarks.md")
