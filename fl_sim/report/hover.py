"""Values of a figure that appear under the pointer."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter

MAX_MARKS = 2000  # of a figure
RADIUS = 5  # of a mark, in points
NO_MARKERS = ("", " ", "None", "none", None)


class Scale(NamedTuple):
    """The label of an axis, and the names at its ticks if these are no numbers."""

    label: str
    names: dict[float, str]

    def describe(self, value: float) -> str:
        """Return a value with the quantity and its unit, or the name of the tick there."""
        if value in self.names:
            return self.names[value]
        what, _, unit = self.label.partition(", ")
        return " ".join(filter(None, (what, f"{value:.4g}", unit)))


def draw_hover_marks(figure: Figure, names: Mapping[Artist, Sequence[str]]) -> str:
    """Return invisible circles over the points of lines and the tops of bars, as SVG.

    A browser shows the title of the circle under the pointer: the point's name, if it has one,
    else the label of its line, and its values.

    Args:
        figure: Figure that was drawn.
        names: Names of the points of some lines.
    """
    marks = []
    x_label = _find_common([axes.get_xlabel() for axes in figure.axes])
    y_label = _find_common([axes.get_ylabel() for axes in figure.axes])
    for axes in figure.axes:
        across = _read_scale(axes.xaxis, x_label)
        up = _read_scale(axes.yaxis, y_label)
        for x, y, name in _list_points(axes, names):
            left, bottom = axes.transData.transform((x, y)) * 72 / figure.dpi
            top = 72 * figure.get_figheight() - bottom
            words = ", ".join(filter(None, (name, across.describe(x), up.describe(y))))
            place = f'cx="{left:.1f}" cy="{top:.1f}" r="{RADIUS}"'
            marks.append(f"<circle {place}><title>{escape(words)}</title></circle>")
    return f'<g fill="transparent" stroke="none">{"".join(marks[:MAX_MARKS])}</g>' if marks else ""


def _find_common(labels: Sequence[str]) -> str:
    """Return the only label of all panels, as inner ones have none; empty if there are several."""
    distinct = {*labels} - {""}
    return distinct.pop() if len(distinct) == 1 else ""


def _read_scale(axis: Axis, common: str) -> Scale:
    names: dict[float, str] = {}
    formatter = axis.get_major_formatter()
    if isinstance(formatter, FixedFormatter):
        names = dict(zip(map(float, axis.get_ticklocs()), formatter.seq, strict=False))
    return Scale(axis.get_label_text() or common, names)


def _list_points(
    axes: Axes, names: Mapping[Artist, Sequence[str]]
) -> Iterator[tuple[float, float, str]]:
    """Yield x, y and name of the points of lines with markers, and of the tops of bars."""
    labels = {id(c[0]): str(c.get_label()) for c in axes.containers if len(c)}
    for line in axes.get_lines():
        if line.get_marker() in NO_MARKERS or line.get_transform() != axes.transData:
            continue
        label = labels.get(id(line), str(line.get_label()))
        points = np.asarray(line.get_xydata(), float)
        own = names.get(line, ["" if label.startswith("_") else label] * len(points))
        for (x, y), name in zip(points.tolist(), own, strict=True):
            if np.isfinite([x, y]).all():
                yield x, y, name
    for bars in axes.containers:
        if isinstance(bars, BarContainer):
            for bar in bars.patches:
                left, height = bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height()
                if np.isfinite(height):
                    yield left, height, ""
