"""Means over seeds with their spread: bars, or a dot for each seed where there are few."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from fl_sim.report.formats import drop_undefined, mean, spread
from fl_sim.report.grid import Grid

FEW_SEEDS = 3  # from which a standard deviation is drawn


def draw_means(
    axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], **style: Any
) -> None:
    """Draw a line through means over seeds, with bars of one standard deviation to each side.

    Where a point has two seeds, dots show both in place of a bar.

    Args:
        axes: Axes.
        x: Positions.
        values: One number per seed at each position.
        style: Options of matplotlib's `plot` for the line.
    """
    axes.plot(x, [mean(own) for own in values], **style)
    known = [drop_undefined(own) for own in values]
    pairs = list(zip(x, known, strict=True))
    many = [(place, own) for place, own in pairs if len(own) >= FEW_SEEDS]
    colour = style["color"]
    if many:
        places, own = zip(*many, strict=True)
        middle, width = [mean(v) for v in own], [spread(v) for v in own]
        axes.errorbar(places, middle, width, fmt="none", ecolor=colour, capsize=2, elinewidth=0.9)
    dots = [(place, one) for place, own in pairs if len(own) == 2 for one in own]
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", color=colour, ms=3, alpha=0.7, label="_seeds")


def describe_bars(grid: Grid) -> str:
    """Return a sentence on the bars of the figures of a grid."""
    if len(grid.seeds) == 1:
        return " One seed, so there are no bars."
    if len(grid.seeds) < FEW_SEEDS:
        return " Small dots: the two seeds, too few for a standard deviation."
    return " Bars: one standard deviation over seeds to each side."
