"""Tables of final metrics with one row per setting."""

from collections.abc import Callable, Sequence

from fl_sim.report.components import Cell, Table, build_table
from fl_sim.report.formats import (
    UNDEFINED,
    NumberFormat,
    drop_undefined,
    format_interval,
    format_over_seeds,
)
from fl_sim.report.grid import Grid, Setting

Column = tuple[str, str, str, NumberFormat]  # heading, metric, group, form


def build_setting_table(
    grid: Grid,
    caption: str,
    columns: Sequence[str],
    cells: Callable[[Setting], Sequence[Cell]],
) -> Table:
    """Return a table with one row a setting that has any finished run."""
    rows = [[*map(Cell, grid.describe(setting)), *cells(setting)] for setting in grid.finished]
    return build_table(caption, grid.heads, columns, rows)


def build_metric_cell(
    setting: Setting, metric: str, form: NumberFormat, group: str = "all"
) -> Cell:
    """Return a final number over seeds, greyed out where it should not be read.

    Its interval reaches from the lowest to the highest bound of the seeds' own.
    """
    found = setting.final_values(metric, group)
    if not found.values:
        return Cell(UNDEFINED)
    nan = float("nan")
    low, high = (
        min(drop_undefined(found.lows), default=nan),
        max(drop_undefined(found.highs), default=nan),
    )
    doubts = [str(n) for n, valid in zip(found.notes, found.valid, strict=True) if not valid]
    bounds = format_interval(low, high, form)
    return Cell(format_over_seeds(found.values, form), doubts[0] if doubts else "", bounds)


def list_notes(grid: Grid, metric: str) -> list[str]:
    """Return what statistics say of the clients that are not in them, a sentence a setting."""
    found: dict[str, list[str]] = {}
    for setting in grid.finished:
        for note in dict.fromkeys(setting.final_values(metric).notes):
            if note:
                found.setdefault(str(note), []).append(setting.label or grid.name)
    return [f"{', '.join(labels)}: {note}." for note, labels in found.items()]


def build_metric_table(grid: Grid, caption: str, columns: Sequence[Column]) -> Table:
    """Return the columns that any setting has a number for."""
    there = [column for column in columns if has_values(grid, [column])]

    def cells(setting: Setting) -> list[Cell]:
        return [build_metric_cell(setting, metric, form, group) for _, metric, group, form in there]

    return build_setting_table(grid, caption, [heading for heading, *_ in there], cells)


def has_values(grid: Grid, columns: Sequence[Column], groups: Sequence[str] = ()) -> bool:
    """Say whether any setting has a row of any of the columns (or of the groups)."""
    wanted = groups or [group for _, _, group, _ in columns]
    return any(
        bool(setting.final_values(metric, group).values)
        for setting in grid.finished
        for _, metric, _, _ in columns
        for group in wanted
    )
