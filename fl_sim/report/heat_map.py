"""Heat maps of accuracies, with the numbers in their squares."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fl_sim.report.formats import mean
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.style import INK

GAP = 0.4  # of a square, before the last column


def tabulate_means(
    grid: Grid, settings: Sequence[Setting], down: str, across: str, number: str = "accuracy"
) -> NDArray[np.float64]:
    """Return the mean over seeds of a summary number by two axes; NaN where no run finished."""
    rows, columns = grid.axes[down], grid.axes[across]
    means = np.full((len(rows), len(columns)), np.nan)
    for setting in settings:
        position = rows.index(setting.values[down]), columns.index(setting.values[across])
        means[position] = mean(setting.summary_values(number))
    return means


def draw_heat_map(
    axes: Axes, values: NDArray[np.float64], last: NDArray[np.float64] | None = None
) -> None:
    """Draw a square for each value, and the column `last`, if any, after a gap."""
    count, width = values.shape
    for place, column in enumerate(values.T):
        _draw_column(axes, float(place), column)
    if last is not None:
        _draw_column(axes, width + GAP, last)
        width += 1
    axes.set_xlim(-0.5, width - (0.5 if last is None else 0.05))
    axes.set_ylim(count - 0.45, -0.55)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def label_columns(axes: Axes, names: Sequence[str], last: str = "") -> None:
    """Label the columns, the one after the gap with `last`."""
    places = [float(place) for place in range(len(names))]
    if last:
        names, places = [*names, last], [*places, len(names) + GAP]
    axes.set_xticks(places, names, rotation=35, ha="right", rotation_mode="anchor")


def _draw_column(axes: Axes, left: float, values: NDArray[np.float64]) -> None:
    extent = (left - 0.5, left + 0.5, len(values) - 0.5, -0.5)
    axes.imshow(values[:, None], cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent)
    for row, value in enumerate(values):
        text = "-" if np.isnan(value) else f"{100 * value:.1f}"
        colour = "white" if value > 0.6 else INK
        axes.text(left, row, text, ha="center", va="center", fontsize=7.5, color=colour)
