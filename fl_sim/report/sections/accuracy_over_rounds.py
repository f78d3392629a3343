"""Accuracy of every setting over the rounds."""

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.grid import Grid
from fl_sim.report.panels import (
    add_axis_legend,
    assign_line_styles,
    choose_line_axis,
    choose_num_columns,
    create_panels,
    select_panels,
)
from fl_sim.report.style import STYLE, export_figure


def build_accuracy_over_rounds(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    return build_figure_section("rounds", "Accuracy over rounds", draw_accuracy_over_rounds(grid))


@rc_context(STYLE)
def draw_accuracy_over_rounds(grid: Grid) -> Drawing | None:
    """Draw the accuracy of every setting over the rounds, with bands over seeds."""
    inside = choose_line_axis(grid)
    panels, others = select_panels(grid, inside)
    if not panels or not grid.has_history:
        return None
    band = "Lines: mean over seeds. Bands: one standard deviation to each side."
    if len(grid.seeds) == 1:
        band = "One seed, so there are no bands."
    caption = f"Accuracy on clean test images after every round. {band}"
    if any(s.metric_rows("accuracy")["value"].isna().any() for s in grid.finished):
        caption += " Where the model of a seed diverged, its accuracy is not defined and left out."
    caption += others
    columns, titles = choose_num_columns(grid, inside), [panel.title for panel in panels]
    labels = ("round", "accuracy, %")
    figure, axes = create_panels(titles, columns, labels=labels, sharex=True, sharey=True)
    styles = assign_line_styles(grid, inside)
    for panel, ax in zip(panels, axes, strict=True):
        for setting in panel.settings:
            value = setting.values[inside] if inside else ""
            _draw_line_with_band(ax, setting.metric_rows("accuracy"), *styles[value], value)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    add_axis_legend(figure, axes, grid, inside)
    return export_figure("accuracy_over_rounds", figure, caption)


def _draw_line_with_band(
    axes: Axes, rows: pd.DataFrame, colour: str, marker: str, label: str
) -> None:
    by_round = rows.groupby("round")["value"]
    rounds = [int(i) for i in by_round.mean().index]
    middle = 100 * by_round.mean().to_numpy(float)
    width = 100 * by_round.std().fillna(0).to_numpy(float)
    few = marker if len(rounds) <= 25 else ""
    axes.plot(rounds, middle, color=colour, marker=few, markersize=3.5, label=label)
    if width.any():
        axes.fill_between(rounds, middle - width, middle + width, color=colour, alpha=0.15, lw=0)
