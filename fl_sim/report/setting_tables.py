"""Tables of final metrics with one row per setting."""

from collections.abc import Callable, Sequence

from fl_sim.report.components import Cell, Table, build_table
from fl_sim.report.formats import (
    UNDEFINED,
    NumberFormat,
    drop_undefined,
    format_interval,
    format_number,
    format_over_seeds,
)
from fl_sim.report.grid import Grid, Setting

Column = tuple[str, str, str, NumberFormat]  # heading, metric, group, format

CHANCE = 0.5  # AUC of guessing

SummaryColumn = tuple[str, str, NumberFormat]  # heading, column of `cells`, format


def build_setting_table(
    grid: Grid, caption: str, columns: Sequence[str], cells: Callable[[Setting], Sequence[Cell]]
) -> Table:
    """Return a table with one row per setting that has a finished run."""
    rows = [[*map(Cell, grid.describe(setting)), *cells(setting)] for setting in grid.finished]
    return build_table(caption, grid.heads, columns, rows)


def build_metric_cell(
    setting: Setting, metric: str, form: NumberFormat, group: str = "all"
) -> Cell:
    """Return a cell with a final metric over seeds, greyed out if it should not be read.

    The interval reaches from the lowest to the highest bound over seeds.
    """
    final = setting.final_values(metric, group)
    if not final.values:
        return Cell(UNDEFINED)
    low = min(drop_undefined(final.lows), default=float("nan"))
    high = max(drop_undefined(final.highs), default=float("nan"))
    doubts = [str(n) for n, valid in zip(final.notes, final.valid, strict=True) if not valid]
    bounds = format_interval(low, high, form)
    text, doubt = format_over_seeds(final.values, form), doubts[0] if doubts else ""
    shown = zip(setting.folders, final.values, strict=False) if len(final.values) > 1 else ()
    hover = ", ".join(f"seed {seed}: {format_number(value, form)}" for seed, value in shown)
    chance = metric.endswith("_auc") and is_chance(setting, metric, group)
    return Cell(text, doubt, bounds, hover=hover, chance=chance)


def is_chance(setting: Setting, metric: str, group: str = "all") -> bool:
    """Return whether an AUC's interval includes the chance level in any seed."""
    final = setting.final_values(metric, group)
    pairs = zip(final.lows, final.highs, strict=True)
    return any(low <= CHANCE <= high for low, high in pairs)


def list_notes(grid: Grid, metric: str) -> list[str]:
    """Return the notes on a metric, such as which clients it leaves out, one sentence per note."""
    labels_by_note: dict[str, list[str]] = {}
    for setting in grid.finished:
        for note in dict.fromkeys(setting.final_values(metric).notes):
            if note:
                labels_by_note.setdefault(str(note), []).append(setting.label or grid.name)
    return [f"{', '.join(labels)}: {note}." for note, labels in labels_by_note.items()]


def build_metric_table(
    grid: Grid, caption: str, columns: Sequence[Column], keep_empty: bool = False
) -> Table:
    """Return a table of the columns that have a number in any setting, or of all columns."""
    filled = [column for column in columns if keep_empty or has_values(grid, [column])]

    def cells(setting: Setting) -> list[Cell]:
        return [build_metric_cell(setting, name, form, group) for _, name, group, form in filled]

    return build_setting_table(grid, caption, [heading for heading, *_ in filled], cells)


def build_summary_table(grid: Grid, caption: str, columns: Sequence[SummaryColumn]) -> Table:
    """Return a table of numbers of the summary, mean and spread over seeds."""

    def cells(setting: Setting) -> list[Cell]:
        return [Cell(format_over_seeds(setting.summary_values(n), form)) for _, n, form in columns]

    return build_setting_table(grid, caption, [heading for heading, *_ in columns], cells)


def has_summary(grid: Grid, name: str) -> bool:
    """Return whether any setting has a number of this name in its summary."""
    return any(bool(drop_undefined(s.summary_values(name))) for s in grid.finished)


def has_values(grid: Grid, columns: Sequence[Column], groups: Sequence[str] = ()) -> bool:
    """Return whether any setting has a value in any of the columns, or for any of the groups."""
    wanted = groups or [group for _, _, group, _ in columns]
    return any(
        bool(setting.final_values(metric, group).values)
        for setting in grid.finished
        for _, metric, _, _ in columns
        for group in wanted
    )
