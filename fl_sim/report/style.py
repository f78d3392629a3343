"""Style of the figures, and their export to SVG and PNG with the same bytes each time."""

import io
import re
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_sim.report.components import Drawing
from fl_sim.report.hover import draw_hover_marks

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # newer than the oldest matplotlib we allow

WIDTH = 9.0  # inches, of every figure
INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
# Okabe and Ito (2008), without the yellow, which is too light for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GROUP_COLOURS = {
    "clean": COLOURS[2],
    "mixed": COLOURS[4],
    "protected": COLOURS[1],
    "attacker": COLOURS[6],
}
STYLE: "dict[RcKeyType, Any]" = {
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": 9,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # no axis is at the top, so no place has to be sought
    "axes.labelsize": 9,
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "path.simplify_threshold": 0.5,
    "pdf.fonttype": 42,  # TrueType
    "svg.fonttype": "none",  # text stays text, which can be searched and copied, and is short
    "savefig.dpi": 160,
}
FONT, FONTS = "'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif"  # as wide, where it lacks
PERCENT_END = 100.0
METADATA: dict[str, dict[str, Any]] = {  # without what differs between two equal figures
    "svg": dict.fromkeys(("Date", "Creator", "Format", "Type")),
    "png": {"Software": None},
    "pdf": dict.fromkeys(("Creator", "Producer", "CreationDate")),
}


def choose_colours(count: int, ordered: bool) -> list[str]:
    """Return `count` colours that are distinct under colour blindness.

    Ordered colours go from dark to light. They are also used for more names than `COLOURS` has.
    """
    if not ordered and count <= len(COLOURS):
        return list(COLOURS[:count])
    scale = matplotlib.colormaps["viridis"]
    steps = [0.82 * i / max(1, count - 1) for i in range(count)]  # the light end is left out
    return [matplotlib.colors.to_hex(scale(step)) for step in steps]


def create_figure(height: float) -> Figure:
    """Return an empty figure of the common width."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def export_figure(
    name: str,
    figure: Figure,
    caption: str,
    alt: str = "",
    names: Mapping[Artist, Sequence[str]] | None = None,
) -> Drawing:
    """Render a figure as SVG and PNG; its text for screen readers is the caption unless given.

    Args:
        name: Name of its files.
        figure: Figure.
        caption: Caption on the page.
        alt: Text for screen readers; the caption if it is empty.
        names: Names of the points of lines, which appear under the pointer with their values.
    """
    with rc_context(STYLE):
        for axes in figure.axes:
            _limit_percentages(axes)
            for axis in (axes.xaxis, axes.yaxis):
                if not axis.get_label_text():
                    axis.set_label_coords(0, 0)  # else its place is sought among the tick labels
        if engine := figure.get_layout_engine():
            engine.execute(figure)
        figure.set_layout_engine(None)  # laid out once, for all formats
    render = partial(_render, figure, name)
    text = render("svg").decode().replace(FONT, FONTS)
    inline = _inline_svg(text, name, alt or caption, draw_hover_marks(figure, names or {}))
    return Drawing(name, caption, text, inline, render)


def _render(figure: Figure, name: str, form: str) -> bytes:
    """Return a figure that was laid out as a file of a format."""
    file = io.BytesIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(file, format=form, metadata=METADATA[form])
    return file.getvalue()


def _limit_percentages(axes: Axes) -> None:
    """Remove the ticks above 100 of axes in percent, and of margins above it."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        if "%" in axis.get_label_text() and high > PERCENT_END > low:
            ticks = [float(tick) for tick in axis.get_ticklocs() if low <= tick <= PERCENT_END]
            axis.set_ticks(ticks)
            axis.set_view_interval(low, high, ignore=True)


def _inline_svg(svg: str, name: str, alt: str, marks: str) -> str:
    """Return an SVG file as an element of a page.

    All figures of a page share its ids and style sheet. Ids are therefore prefixed with the
    figure's name, and matplotlib's rule for all elements becomes a style of the root element.
    """
    view = re.findall(r'viewBox="([^"]*)"', svg)[0]
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    for link in (' id="', 'href="#', "url(#"):
        body = body.replace(link, f"{link}{name}-")
    body = body.replace("fill: #ffffff", "fill: none", 1)  # the page's own colour, dark or light
    body = body.rstrip().removesuffix("</svg>") + marks + "</svg>\n"
    strokes = "stroke-linejoin:round;stroke-linecap:butt"
    return f'<svg role="img" aria-label="{escape(alt)}" viewBox="{view}" style="{strokes}">{body}'
