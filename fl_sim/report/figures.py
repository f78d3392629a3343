"""Accuracy as lines: over the rounds, and against the share that is protected."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fl_sim.report.formats import mean, spread
from fl_sim.report.grid import FRACTION, Grid, Setting, short_name
from fl_sim.report.panels import (
    MAX_FRACTIONS,
    Panel,
    axes_of,
    drawn_panels,
    label_outside,
    line_axis,
    num_columns,
)
from fl_sim.report.parts import Drawing
from fl_sim.report.style import COLOURS, GREY, INK, MARKERS, STYLE, colours, drawn

FRACTION_LINES = (
    ("A_all", "protection.a_all", GREY, ":", "D", "A_all: nobody protects"),
    ("A_clean", "protection.a_clean", COLOURS[2], "--", "s", "A_clean: the clean part alone"),
    ("A_mix", "accuracy", COLOURS[0], "-", "o", "A_mix: clean and protected together"),
)


def accuracy_over_rounds(grid: Grid) -> Drawing | None:
    """Draw the accuracy of every setting over the rounds, with a band over seeds."""
    inside = line_axis(grid)
    panels, others = drawn_panels(grid, inside)
    if not panels or not grid.has_course:
        return None
    figure = _rounds_figure(grid, inside, panels)
    shown = "A line is the mean over seeds, the band one standard deviation to each side."
    if len(grid.seeds) == 1:
        shown = "One seed, so there is no band."
    about = f"Accuracy on clean test images after every round. {shown}"
    if any(bool(setting.metric("accuracy")["value"].isna().any()) for setting in grid.finished):
        about += " Where the model of a seed diverged, its accuracy is not defined, and left out."
    about += others
    return drawn("accuracy_over_rounds", figure, about, about)


@rc_context(STYLE)
def _rounds_figure(grid: Grid, inside: str | None, panels: Sequence[Panel]) -> Figure:
    columns = num_columns(grid, inside, len(panels))
    figure, axes = axes_of([p.title for p in panels], columns, sharex=True, sharey=True)
    styles = line_styles(grid, inside)
    for panel, own in zip(panels, axes, strict=True):
        for setting in panel.settings:
            word = setting.values[inside] if inside else ""
            _line_with_band(own, setting.metric("accuracy"), *styles[word], word)
        own.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    label_outside(axes, columns, "round", "accuracy, %")
    axis_legend(figure, axes, grid, inside)
    return figure


def line_styles(grid: Grid, inside: str | None) -> dict[str, tuple[str, str]]:
    """Return the colour and the marker of every value of the axis whose lines share a panel."""
    values = grid.axes[inside] if inside else [""]
    palette = colours(len(values), ordered=inside == FRACTION)
    marks = [MARKERS[i % len(MARKERS)] for i in range(len(values))]
    return dict(zip(values, zip(palette, marks, strict=True), strict=True))


def axis_legend(figure: Figure, axes: Sequence[Axes], grid: Grid, inside: str | None) -> None:
    """Put one legend of the values of the axis `inside` over all panels."""
    if inside is not None:
        title = "fraction protected" if inside == FRACTION else short_name(inside)
        _legend(figure, axes, title, grid.axes[inside])


def _line_with_band(axes: Axes, rows: pd.DataFrame, colour: str, marker: str, label: str) -> None:
    by_round = rows.groupby("round")["value"]
    rounds = [int(i) for i in by_round.mean().index]
    middle = 100 * by_round.mean().to_numpy(float)
    width = 100 * by_round.std().fillna(0).to_numpy(float)
    few = marker if len(rounds) <= 25 else ""
    axes.plot(rounds, middle, color=colour, marker=few, markersize=3.5, label=label)
    if width.any():
        axes.fill_between(rounds, middle - width, middle + width, color=colour, alpha=0.15, lw=0)


def _legend(figure: Figure, axes: Sequence[Axes], title: str, order: Sequence[str]) -> None:
    """Put one legend over all panels, in the order of the values."""
    handles: dict[str, Any] = {}
    for panel in axes:
        own, labels = panel.get_legend_handles_labels()
        handles |= dict(zip(labels, own, strict=True))
    there = [value for value in order if value in handles]
    figure.legend(
        [handles[value] for value in there],
        there,
        loc="outside upper left",
        ncols=min(len(there), 4 if max(map(len, there)) > 12 else 8),
        title=title,
        alignment="left",
        title_fontproperties={"weight": "bold"},
    )


def accuracy_against_fraction(grid: Grid) -> Drawing | None:
    """Draw A_mix beside A_clean and A_all against the share that is protected."""
    if FRACTION not in grid.axes or not grid.finished:
        return None
    panels, others = drawn_panels(grid, FRACTION)
    figure = _fraction_figure(grid, panels)
    about = (
        "Accuracy after the last round against the share that is protected. What protected images "
        "still give away is the room between A_mix and A_clean; where the two meet, they add "
        "nothing. A_clean ends before 1, where nothing is clean."
    )
    if len(grid.seeds) > 1:
        about += " Bars: one standard deviation over seeds to each side."
    about += others
    return drawn("accuracy_against_fraction", figure, about, about)


@rc_context(STYLE)
def _fraction_figure(grid: Grid, panels: Sequence[Panel]) -> Figure:
    columns = num_columns(grid, FRACTION, len(panels))
    figure, axes = axes_of([p.title for p in panels], columns, sharex=True, sharey=True)
    for panel, own in zip(panels, axes, strict=True):
        for line in FRACTION_LINES:
            _fraction_line(own, panel.settings, *line[1:])
        if len(grid.axes[FRACTION]) <= MAX_FRACTIONS:
            own.set_xticks([float(word) for word in grid.axes[FRACTION]])
    label_outside(axes, columns, "fraction protected", "accuracy, %")
    words = [line[-1] for line in reversed(FRACTION_LINES)]
    _legend(figure, axes, "", words)
    return figure


def _fraction_line(
    axes: Axes,
    settings: Sequence[Setting],
    column: str,
    colour: str,
    style: str,
    marker: str,
    label: str,
) -> None:
    points = sorted((float(s.values[FRACTION]), s.column(column)) for s in settings)
    points = [(x, values) for x, values in points if mean(values) == mean(values)]
    axes.errorbar(
        [x for x, _ in points],
        [100 * mean(values) for _, values in points],
        [100 * (spread(values) if len(values) > 1 else 0.0) for _, values in points],
        color=colour,
        linestyle=style,
        marker=marker,
        capsize=2,
        elinewidth=0.9,
        label=label,
        markeredgecolor=INK if marker == "o" else colour,
        markeredgewidth=0.4,
    )
