"""Two axes crossed: what every noise is worth against everything that is tried against it."""

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from fl_sim.report.grid import FRACTION, Grid, short_name
from fl_sim.report.heat import draw, name_columns, values_of
from fl_sim.report.panels import axes_of
from fl_sim.report.parts import Drawing
from fl_sim.report.sections.attacks import attack_axis
from fl_sim.report.style import STYLE, drawn

FEWEST = 3  # values of both axes, from which on a picture says more than a list
MOST = 24  # values of both axes, above which their squares are too small to read
A_ALL = "protection.a_all"


def crossed(grid: Grid) -> Drawing | None:
    """Draw the accuracy by two axes, where a sweep has just these and no other picture of them."""
    few = any(len(values) < FEWEST for values in grid.axes.values())
    many = any(len(values) > MOST for values in grid.axes.values())
    drawn_elsewhere = FRACTION in grid.axes or attack_axis(grid) is not None
    if len(grid.axes) != 2 or few or many or drawn_elsewhere or not grid.finished:
        return None
    about = (
        "Accuracy in percent after the last round, mean over seeds. The last column, where there "
        "is one, is A_all: nobody protects."
    )
    return drawn("crossed", _figure(grid), about, about)


@rc_context(STYLE)
def _figure(grid: Grid) -> Figure:
    across, down = grid.axes
    figure, (axes,) = axes_of([""], 1, 1.2 + 0.3 * len(grid.axes[down]))
    bound = values_of(grid, grid.finished, down, across, A_ALL)
    means = [np.nanmean(row) if np.isfinite(row).any() else np.nan for row in bound]
    last = np.array(means) if np.isfinite(means).any() else None
    draw(axes, values_of(grid, grid.finished, down, across), last)
    name_columns(axes, grid.axes[across], "" if last is None else "A_all")
    axes.set_yticks(range(len(grid.axes[down])), grid.axes[down])
    axes.set_ylabel(short_name(down))
    return figure
