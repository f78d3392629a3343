"""The tables of the documentation: `python -m benchmarks.pages` rebuilds them from the results."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import scale
from benchmarks.rules import RESULTS as RULES
from benchmarks.rules import cells
from benchmarks.table import Row, judgements
from fl_sim.core.atomic_io import write_text

DOCS, RESULTS = Path(__file__).parents[1] / "docs", Path(__file__).with_name("results.json")


class Spot(NamedTuple):
    """A place in a page that is filled from a file of results."""

    page: str
    mark: str
    results: Path
    fill: Callable[[Any], str]


def targets(rows: list[dict[str, Any]]) -> str:
    """Return what was to be shown, and what was measured, as Markdown."""
    lines = ["| target | measured | wanted | |", "|---|---|---|---|"]
    found = judgements([Row(**row) for row in rows])
    lines += ["| " + " | ".join(judgement) + " |" for judgement in found]
    return "\n".join(lines)


def rules(rows: list[dict[str, Any]]) -> str:
    """Return what rules cost as Markdown."""
    names = [name.replace("_", " ") for name in rows[0]]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines)


SPOTS = (
    Spot("scale.md", "overhead", RESULTS, scale.tables),
    Spot("benchmarks.md", "targets", RESULTS, targets),
    Spot("benchmarks.md", "rules", RULES, rules),
)


def write(spot: Spot, docs: Path) -> None:
    """Put a table between its marks; without results, leave the page as it is."""
    if not spot.results.exists():
        return
    marks = re.compile(f"(<!-- {spot.mark} -->\n).*?(<!-- /{spot.mark} -->)", re.DOTALL)
    table, page = spot.fill(json.loads(spot.results.read_text())), docs / spot.page
    text = page.read_text()
    write_text(page, marks.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text))


if __name__ == "__main__":
    for each in SPOTS:
        write(each, DOCS)
    print("rebuilt the tables of docs/scale.md and docs/benchmarks.md")
