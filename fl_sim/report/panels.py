"""Small multiples: groups settings into panels and lays the panels out on one figure."""

import textwrap
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fl_sim.report.grid import FRACTION, Grid, Setting, shorten_path
from fl_sim.report.style import GROUP_COLOURS, MARKERS, choose_colours, create_figure

MAX_PANELS = 36
MANY_SETTINGS = 40  # a figure of more settings shows FEW_PANELS panels
FEW_PANELS = 6
MAX_LINES = 12  # more lines in one panel cannot be told apart
MAX_FRACTIONS = 24  # more than MAX_LINES, as their colours are ordered


class Panel(NamedTuple):
    """A panel's title and settings."""

    title: str
    settings: list[Setting]


def choose_line_axis(grid: Grid) -> str | None:
    """Return the axis whose values share a panel: the fraction, else the last that fits."""
    if len(grid.axes.get(FRACTION, ())) in range(1, MAX_FRACTIONS + 1):
        return FRACTION
    fitting = [axis for axis, values in grid.axes.items() if len(values) <= MAX_LINES]
    return fitting[-1] if fitting else None


def group_panels(grid: Grid, inside: str | None) -> list[Panel]:
    """Return the finished settings by panel; within one, they differ in the axis `inside` only."""
    groups: dict[str, list[Setting]] = {}
    for setting in grid.finished:
        others = {axis: word for axis, word in setting.values.items() if axis != inside}
        title = Setting(others, setting.cells, setting.rows, setting.folders).label
        groups.setdefault(title, []).append(setting)
    return [Panel(title, settings) for title, settings in groups.items()]


def limit_panels(grid: Grid, usual: int = MAX_PANELS) -> int:
    """Return the maximum number of panels of a figure: `usual`, or less for many settings."""
    return usual if len(grid.finished) <= MANY_SETTINGS else min(usual, FEW_PANELS)


def select_panels(grid: Grid, inside: str | None) -> tuple[list[Panel], str]:
    """Return the panels of a figure, and a sentence about those left out, or an empty string."""
    panels = group_panels(grid, inside)
    shown = panels[: limit_panels(grid)]
    if len(shown) == len(panels):
        return shown, ""
    return shown, (
        f" The first {len(shown)} of {len(panels)} panels are drawn; the numbers of all settings "
        "are in the tables of this page and, for every round, in rows.parquet."
    )


def describe_omitted(grid: Grid, settings: Sequence[Setting]) -> str:
    """Return a sentence about the settings that are not drawn, or an empty string."""
    omitted = len(grid.finished) - len(settings)
    if not omitted:
        return ""
    return f" The first {len(settings)} settings are drawn; {omitted} more are in rows.parquet."


def choose_num_columns(grid: Grid, inside: str | None) -> int:
    """Return the number of panels per row: the number of values of the last axis if they fit."""
    outside = [len(values) for axis, values in grid.axes.items() if axis != inside]
    return outside[-1] if len(outside) > 1 and 2 <= outside[-1] <= 4 else 3


def create_panels(
    titles: Sequence[str],
    columns: int = 3,
    height: float = 2.1,
    labels: tuple[str, str] = ("", ""),
    **options: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, one per title.

    Args:
        titles: Titles of the panels; long ones are wrapped.
        columns: Largest number of panels per row.
        height: Height of a row of panels, in inches.
        labels: Labels of the x axis, below the last panel per column, and of the y axis, beside
            the first panel per row.
        options: Options of matplotlib's `subplots`.
    """
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = create_figure(max(2.9 if rows == 1 else 0.0, rows * height + 0.5))
    panels: list[Axes] = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(_wrap_title(title, 112 // columns))
    for empty in panels[len(titles) :]:
        empty.remove()
    for axes in panels[len(titles) - columns : len(titles)]:
        axes.tick_params(labelbottom=True)  # the panel below may be missing
        axes.set_xlabel(labels[0])
    for axes in panels[: len(titles) : columns]:
        axes.set_ylabel(labels[1])
    return figure, panels[: len(titles)]


def _wrap_title(title: str, width: int) -> str:
    """Return a title with line breaks, between settings if possible."""
    lines = [""]
    for part in title.split(" · "):
        joined = f"{lines[-1]} · {part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) <= width else [*lines, part]
    return "\n".join(short for line in lines if line for short in textwrap.wrap(line, width))


def assign_line_styles(grid: Grid, inside: str | None) -> dict[str, tuple[str, str]]:
    """Return the colour and the marker of every value of the axis whose lines share a panel."""
    values = grid.axes[inside] if inside else [""]
    palette = choose_colours(len(values), ordered=inside == FRACTION)
    marks = [MARKERS[i % len(MARKERS)] for i in range(len(values))]
    return dict(zip(values, zip(palette, marks, strict=True), strict=True))


def add_axis_legend(figure: Figure, axes: Sequence[Axes], grid: Grid, inside: str | None) -> None:
    """Add one legend of the values of the axis `inside` above all panels."""
    if inside is not None:
        title = "fraction protected" if inside == FRACTION else shorten_path(inside)
        add_legend(figure, axes, title, grid.axes[inside])


def add_legend(figure: Figure, axes: Sequence[Axes], title: str, order: Sequence[str]) -> None:
    """Add one legend above all panels, in the order of the values."""
    handles: dict[str, Any] = {}
    for panel in axes:
        panel_handles, labels = panel.get_legend_handles_labels()
        handles |= dict(zip(labels, panel_handles, strict=True))
    names = [value for value in order if value in handles]
    figure.legend(
        [handles[value] for value in names],
        names,
        loc="outside upper left",
        ncols=min(len(names), 4 if max(map(len, names)) > 12 else 8),
        title=title,
        alignment="left",
        title_fontproperties={"weight": "bold"},
    )


def add_group_legend(figure: Figure, groups: Collection[str]) -> None:
    """Add a legend of the client groups that occur, as coloured dots."""
    marks = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=group)
        for group, colour in GROUP_COLOURS.items()
        if group in groups
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=max(1, len(marks)))
