"""Accuracy as a heat map over the two axes of a sweep."""

import numpy as np
from matplotlib import rc_context

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.grid import FRACTION, Grid, shorten_path
from fl_sim.report.heat_map import draw_heat_map, label_columns, tabulate_means
from fl_sim.report.panels import create_panels
from fl_sim.report.sections.attacks import find_attack_axis
from fl_sim.report.style import STYLE, export_figure

MIN_VALUES = 3  # values per axis; a table suffices for fewer
MAX_VALUES = 24  # values per axis; the squares of more are too small to read
A_ALL = "protection.a_all"


def build_accuracy_grid(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    title = f"Accuracy by {' and '.join(grid.heads)}"
    return build_figure_section("crossed", title, draw_accuracy_grid(grid))


@rc_context(STYLE)
def draw_accuracy_grid(grid: Grid) -> Drawing | None:
    """Draw the accuracy by two axes, if the sweep has only these and no other figure shows them."""
    few = any(len(values) < MIN_VALUES for values in grid.axes.values())
    many = any(len(values) > MAX_VALUES for values in grid.axes.values())
    drawn_elsewhere = FRACTION in grid.axes or find_attack_axis(grid) is not None
    if len(grid.axes) != 2 or few or many or drawn_elsewhere or not grid.finished:
        return None
    caption = (
        "Accuracy in percent after the last round, mean over seeds. The last column, if any, is "
        "A_all, the accuracy without protection."
    )
    across, down = grid.axes
    figure, (axes,) = create_panels([""], 1, 1.2 + 0.3 * len(grid.axes[down]))
    bound = tabulate_means(grid, grid.finished, down, across, A_ALL)
    means = [np.nanmean(row) if np.isfinite(row).any() else np.nan for row in bound]
    last = np.array(means) if np.isfinite(means).any() else None
    draw_heat_map(axes, tabulate_means(grid, grid.finished, down, across), last)
    label_columns(axes, grid.axes[across], "" if last is None else "A_all")
    axes.set_yticks(range(len(grid.axes[down])), grid.axes[down])
    axes.set_ylabel(shorten_path(down))
    return export_figure("crossed", figure, caption)
