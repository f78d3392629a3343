"""Key numbers of every setting."""

from collections.abc import Sequence

from fl_sim.report.components import Cell, Section, build_table
from fl_sim.report.formats import UNDEFINED
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.tables import (
    A_MIX,
    Column,
    choose_headline_columns,
    describe_seeds,
    explain_columns,
    explain_undefined,
)


def build_key_numbers(grid: Grid) -> Section:
    """Return the headline numbers, one row per setting."""
    shown = choose_headline_columns(grid)
    columns = [f"{c.name}, {c.unit}" if c.unit else c.name for c in shown]
    rows = [[*map(Cell, grid.describe(s)), *_build_cells(s, shown)] for s in grid.settings]
    paragraphs = [f"After the last round; {describe_seeds(grid)}. {explain_columns(shown)}"]
    if len(grid.seeds) > 1:
        paragraphs.append(
            "The standard deviation is not a confidence interval. (n/m): defined for n of m seeds."
        )
    paragraphs += [text for text in explain_undefined(grid) if not text.startswith("CPU s")]
    table = build_table("Key numbers", grid.heads, columns, rows)
    return Section("key", "Key numbers", tuple(paragraphs), (table,))


def _build_cells(setting: Setting, columns: Sequence[Column]) -> list[Cell]:
    missing = len(setting.cells) - len(setting.finished)
    cells = []
    for column in columns:
        alarm = f"{missing} failed" if column is A_MIX and missing else ""
        cells.append(Cell(column.text(setting) if setting.folders else UNDEFINED, alarm=alarm))
    return cells
