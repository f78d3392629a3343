"""Tables of what was measured, one row a setting: headline numbers, cost."""

from collections.abc import Callable, Sequence

from fl_sim.report.formats import (
    COUNT,
    MEBIBYTES,
    MEGABYTES,
    SECONDS,
    UNDEFINED,
    Form,
    defined,
    interval,
    over_seeds,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.parts import Cell, Section, Table, table
from fl_sim.report.tables import (
    A_MIX,
    Column,
    headline_columns,
    legend,
    seeds_in_words,
    undefined,
)

COSTS = (
    ("CPU seconds", "cost.cpu_seconds", SECONDS),
    ("seconds by the clock", "cost.seconds", SECONDS),
    ("MB up", "cost.bytes_up", MEGABYTES),
    ("MB down", "cost.bytes_down", MEGABYTES),
    ("peak MiB", "cost.peak_mib", MEBIBYTES),
    ("trained parameters", "num_parameters", COUNT),
)


def headlines(grid: Grid) -> Section:
    """Return the key numbers."""
    there = headline_columns(grid)
    columns = [f"{c.name}, {c.unit}" if c.unit else c.name for c in there]
    rows = [
        [*map(Cell, grid.words(setting)), *_headline_cells(setting, there)]
        for setting in grid.settings
    ]
    about = [f"After the last round; {seeds_in_words(grid)}. {legend(there)}"]
    if len(grid.seeds) > 1:
        about.append("The spread is no confidence interval; (n/m): defined for n of m seeds.")
    about += [own for own in undefined(grid) if not own.startswith("CPU s")]
    return Section(
        "key", "Key numbers", tuple(about), (table("Key numbers", grid.heads, columns, rows),)
    )


def _headline_cells(setting: Setting, columns: Sequence[Column]) -> list[Cell]:
    missing = len(setting.cells) - len(setting.finished)
    cells = []
    for column in columns:
        alarm = f"{missing} failed" if column is A_MIX and missing else ""
        cells.append(Cell(column.text(setting) if setting.folders else UNDEFINED, alarm=alarm))
    return cells


def cost(grid: Grid) -> Section | None:
    """Return what the runs cost."""
    if not grid.finished:
        return None
    made = setting_table(
        grid,
        "Cost of a run",
        [name for name, _, _ in COSTS],
        lambda setting: [Cell(over_seeds(setting.column(name), form)) for _, name, form in COSTS],
    )
    about = (
        "Over all rounds and clients. Seconds by the clock and memory hold for this machine and "
        "its load, and include whatever else it did at the time; bytes and parameters hold "
        f"anywhere. {grid.about_time}"
    )
    reasons = [own for own in undefined(grid) if own.startswith("CPU s")]
    return Section("cost", "Cost", (about, *reasons), (made,))


def setting_table(
    grid: Grid,
    caption: str,
    columns: Sequence[str],
    cells: Callable[[Setting], Sequence[Cell]],
) -> Table:
    """Return a table with one row a setting that has any finished run."""
    rows = [[*map(Cell, grid.words(setting)), *cells(setting)] for setting in grid.finished]
    return table(caption, grid.heads, columns, rows)


def measured_cell(setting: Setting, metric: str, form: Form, group: str = "all") -> Cell:
    """Return a final number over seeds, greyed out where it should not be read.

    Its interval reaches from the lowest to the highest bound of the seeds' own.
    """
    found = setting.numbers(metric, group)
    if not found.values:
        return Cell(UNDEFINED)
    nan = float("nan")
    low, high = min(defined(found.lows), default=nan), max(defined(found.highs), default=nan)
    doubts = [str(n) for n, valid in zip(found.notes, found.valid, strict=True) if not valid]
    bounds = interval(low, high, form)
    return Cell(over_seeds(found.values, form), doubts[0] if doubts else "", bounds)
