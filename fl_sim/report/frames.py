"""Tables of all columns of the results, for the page docs/frames.md.

`python -m fl_sim.report.frames docs/frames.md` rebuilds them in the page.
"""

import sys
from pathlib import Path

from fl_sim.core.atomic_io import write_text
from fl_sim.results.columns import TABLES, Table

BEGIN, END = "<!-- columns -->\n", "<!-- /columns -->"


def render_table(table: Table) -> str:
    """Return the section of a table: its rows, and the type, range and meaning of its columns."""
    lines = [f"### {table.name}", "", table.about, ""]
    lines += ["| Column | Type | Unit or range | Meaning |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.kind} | {c.values} | {c.meaning} |" for c in table.columns]
    return "\n".join(lines) + "\n"


def fill(page: str) -> str:
    """Return the text of the page with its generated part rebuilt."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    sections = "\n".join(map(render_table, TABLES.values()))
    return f"{before}{BEGIN}\n{sections}\n{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write_text(path, fill(path.read_text("utf-8")))
