"""Tables of the documentation; `python -m benchmarks.pages` rebuilds them from the results."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import scale
from benchmarks.rules import RESULTS as RULES
from benchmarks.rules import format_cells
from benchmarks.table import Row, judge_targets
from fl_sim.core.atomic_io import write_text

DOCS, RESULTS = Path(__file__).parents[1] / "docs", Path(__file__).with_name("results.json")


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


SPOTS = (
    GeneratedTable("scale.md", "overhead", RESULTS, scale.format_tables),
    GeneratedTable("benchmarks.md", "targets", RESULTS, format_targets),
    GeneratedTable("benchmarks.md", "rules", RULES, format_rules),
)


def write_table(table: GeneratedTable, docs: Path) -> None:
    """Write a table between its marks; leave the page unchanged if there are no results."""
    if not table.results.exists():
        return
    marks = re.compile(f"(<!-- {table.mark} -->\n).*?(<!-- /{table.mark} -->)", re.DOTALL)
    filled, page = table.fill(json.loads(table.results.read_text())), docs / table.page
    text = page.read_text()
    write_text(page, marks.sub(lambda match: f"{match[1]}{filled}\n{match[2]}", text))


if __name__ == "__main__":
    for each in SPOTS:
        write_table(each, DOCS)
    print("rebuilt the tables of docs/scale.md and docs/benchmarks.md")
