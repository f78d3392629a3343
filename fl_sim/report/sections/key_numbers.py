"""Key numbers of every setting."""

from collections.abc import Sequence

from fl_sim.report.components import Cell, Section, build_table
from fl_sim.report.formats import UNDEFINED, drop_undefined, format_number
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.setting_tables import describe_test_size, format_bounds
from fl_sim.report.tables import (
    A_MIX,
    REASONS,
    Column,
    choose_headline_columns,
    describe_seeds,
    explain_columns,
    explain_undefined,
)
from fl_sim.report.verdicts import CHANCE_LEVEL, TIE, find_ties, is_chance


def build_key_numbers(grid: Grid) -> Section:
    """Return the headline numbers, one row per setting."""
    shown = choose_headline_columns(grid)
    columns = [f"{c.name}, {c.unit}" if c.unit else c.name for c in shown]
    ties = find_ties(grid, "accuracy")
    rows = [
        [*map(Cell, grid.describe(s)), *_build_cells(s, shown, s in ties)] for s in grid.settings
    ]
    paragraphs = [f"After the last round; {describe_seeds(grid)}. {explain_columns(shown)}"]
    if len(grid.seeds) > 1:
        paragraphs.append(
            "The standard deviation is not a confidence interval. (n/m): defined for n of m seeds."
        )
    paragraphs += filter(None, [describe_test_size(grid)])
    paragraphs += [text for text in explain_undefined(grid) if not text.startswith("CPU s")]
    table = build_table("Key numbers", grid.heads, columns, rows)
    return Section("key", "Key numbers", tuple(paragraphs), (table,))


CONTROLS = ("protection.a_all", "protection.a_clean")


def _build_cells(setting: Setting, columns: Sequence[Column], is_tie: bool) -> list[Cell]:
    missing = len(setting.cells) - len(setting.finished)
    cells = []
    for column in columns:
        alarm = f"{missing} failed" if column is A_MIX and missing else ""
        text = column.text(setting) if setting.folders else UNDEFINED
        doubt = _find_reason(setting, column) if text == UNDEFINED else ""
        hover = "" if doubt else _list_seeds(setting, column)
        verdict, bounds = column.judge(setting), ""
        if column is A_MIX:
            verdict = TIE if is_tie else ""
            bounds = format_bounds(setting, "accuracy", column.form)
        if column.name == "AUC" and is_chance(setting, "mia_margin_auc"):
            verdict = CHANCE_LEVEL
        cells.append(Cell(text, doubt, bounds, alarm=alarm, hover=hover, verdict=verdict))
    return cells


def _find_reason(setting: Setting, column: Column) -> str:
    """Return why a setting has no number in a column, or an empty string."""
    if not setting.folders:
        return "no run finished"
    if metric := dict(REASONS).get(column.name):
        return setting.undefined_reason(metric)
    if column.name not in ("A_all", "A_clean", "added", "ratio"):
        return ""
    has_all, has_clean = (bool(drop_undefined(setting.summary_values(c))) for c in CONTROLS)
    if not has_all:
        return "its control was not run"
    return "A_all equals A_clean" if has_clean else "everything is protected, so nothing is clean"


def _list_seeds(setting: Setting, column: Column) -> str:
    """Return the number of every seed, for the text under the pointer."""
    values = column.values(setting)
    if len(setting.folders) < 2 or len(values) < 2:
        return ""
    pairs = zip(setting.folders, values, strict=False)
    return ", ".join(f"seed {seed}: {format_number(x, column.form)}" for seed, x in pairs)
