"""Tables of final metrics with one row per setting."""

from collections.abc import Callable, Sequence

from fl_sim.report.advice import add_advice
from fl_sim.report.components import Cell, Table, build_table
from fl_sim.report.formats import (
    PERCENT,
    UNDEFINED,
    NumberFormat,
    drop_undefined,
    format_interval,
    format_number,
    format_over_seeds,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.verdicts import CHANCE_LEVEL, is_chance, judge_change

Column = tuple[str, str, str, NumberFormat]  # heading, metric, group, format

METRICS = {  # numbers of the summary that are metrics with an interval
    "accuracy": "accuracy",
    "backdoor.success": "attack_success",
    "backdoor.untriggered": "attack_success_untriggered",
}

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
    """Return a cell with a final metric over seeds, greyed out if it should not be read."""
    final = setting.final_values(metric, group)
    if not final.values:
        return Cell(UNDEFINED)
    doubts = [str(n) for n, valid in zip(final.notes, final.valid, strict=True) if not valid]
    bounds = format_bounds(setting, metric, form, group)
    text, doubt = format_over_seeds(final.values, form), add_advice(doubts[0]) if doubts else ""
    shown = zip(setting.folders, final.values, strict=False) if len(final.values) > 1 else ()
    hover = ", ".join(f"seed {seed}: {format_number(value, form)}" for seed, value in shown)
    chance = metric.endswith("_auc") and is_chance(setting, metric, group)
    verdict = CHANCE_LEVEL if chance else judge_change(final.values) if form.signed else ""
    return Cell(text, doubt, bounds, hover=hover, verdict=verdict)


def format_bounds(setting: Setting, metric: str, form: NumberFormat, group: str = "all") -> str:
    """Return the 95 % interval of a final metric, or an empty string if it has none.

    It reaches from the lowest to the highest bound over seeds.
    """
    final = setting.final_values(metric, group)
    low = min(drop_undefined(final.lows), default=float("nan"))
    high = max(drop_undefined(final.highs), default=float("nan"))
    return format_interval(low, high, form)


def describe_test_size(grid: Grid) -> str:
    """Return a sentence on the intervals of accuracies from the number of test images."""
    finals = [setting.final_values("accuracy") for setting in grid.finished]
    widths = [high - low for f in finals for low, high in zip(f.lows, f.highs, strict=True)]
    widest = max(drop_undefined(widths), default=float("nan"))
    if widest != widest:
        return ""
    points = format_number(widest / 2, PERCENT)
    return (
        "In brackets: 95 % intervals of accuracies from the number of test images alone (Clopper "
        f"and Pearson), at most ± {points} points in one run"
        + (", from the lowest to the highest bound over seeds." if len(grid.seeds) > 1 else ".")
    )


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
        return [_build_summary_cell(setting, name, form) for _, name, form in columns]

    return build_setting_table(grid, caption, [heading for heading, *_ in columns], cells)


def _build_summary_cell(setting: Setting, name: str, form: NumberFormat) -> Cell:
    if metric := METRICS.get(name):
        return build_metric_cell(setting, metric, form)
    values = setting.summary_values(name)
    return Cell(
        format_over_seeds(values, form), verdict=judge_change(values) if form.signed else ""
    )


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
