"""What the rule made of each client's updates, round by round."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.panels import create_panels, label_outer_axes, limit_panels
from fl_sim.report.style import COLOURS, GREY, INK, STYLE, export_figure

MAX_PANELS = 9  # panels
MANY = 30  # clients, above which they are not named one by one
NOTHING, PARTLY, EVEN = "#ffffff", "#9ecae1", "#2171b5"


def build_update_shares(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    return build_figure_section("exclusion", "Whose updates counted", draw_shares_over_rounds(grid))


def draw_shares_over_rounds(grid: Grid) -> Drawing | None:
    """Draw how much of each step each client's update was, attackers marked."""
    most = limit_panels(grid, MAX_PANELS)
    settings = list(islice((own for own in grid.finished if _is_informative(own)), most))
    if not settings:
        return None
    about = (
        "How much of the step each update was, after shortening, against the update that was the "
        "most of its round: the darker, the more. A dot: left out. A frame: the client attacked "
        f"in that round. Grey: it sent nothing. Of {grid.shown_seeds}."
    )
    return export_figure("shares_over_rounds", _create_figure(settings), about, about)


def _is_informative(setting: Setting) -> bool:
    """Return whether updates are told apart at all: a plain mean of equal shards is no news."""
    shares, scales = (setting.client_history(name) for name in ("rule_share", "rule_scale"))
    some_left_out = any(bool((own["value"] == 0).any()) for own in (shares, scales))
    if not some_left_out and not (shares["group"] == "attacker").any():
        return False
    rows = _scale_shares(setting)
    return len(rows) > 0 and bool((rows["value"] == 0).any() or (rows["group"] == "attacker").any())


def _scale_shares(setting: Setting) -> pd.DataFrame:
    """Return the shares of the first seed's updates, times what they were shortened by."""
    rows = setting.rows[setting.rows["seed"] == setting.first_seed]
    shares = rows[rows["metric"] == "rule_share"].set_index(["round", "client"])
    scales = rows[rows["metric"] == "rule_scale"].set_index(["round", "client"])["value"]
    counted = shares["value"] * scales.reindex(shares.index).fillna(1.0)
    return shares.assign(value=counted).reset_index()


@rc_context(STYLE)
def _create_figure(settings: Sequence[Setting]) -> Figure:
    columns = min(3, len(settings))
    num_clients = max(int(_scale_shares(setting)["client"].max()) + 1 for setting in settings)
    height = min(6.0, 1.2 + 0.16 * num_clients)
    figure, axes = create_panels([setting.label for setting in settings], columns, height)
    for i, (setting, own) in enumerate(zip(settings, axes, strict=True)):
        _draw_panel(own, _scale_shares(setting), num_clients, f"panel-{i}")
    label_outer_axes(axes, columns, "round", "client")
    patches = [
        Patch(facecolor=EVEN, label="the most"),
        Patch(facecolor=PARTLY, label="less"),
        Patch(facecolor=NOTHING, edgecolor=GREY, label="left out"),
        Patch(facecolor=NOTHING, edgecolor=COLOURS[1], linewidth=1.5, label="attacked"),
    ]
    figure.legend(handles=patches, loc="outside upper left", ncols=4)
    return figure


def _draw_panel(axes: Axes, rows: pd.DataFrame, num_clients: int, name: str) -> None:
    rounds = sorted(int(number) for number in rows["round"].unique())
    places = {number: i for i, number in enumerate(rounds)}
    x = rows["round"].map(places).to_numpy(int)
    y = rows["client"].to_numpy(int)
    shares: NDArray[np.float64] = np.full((num_clients, len(rounds)), np.nan)
    shares[y, x] = rows["value"].to_numpy(float)
    most = np.nanmax(shares, axis=0, initial=0.0)
    relative = shares / np.where(most > 0, most, 1)
    blues = colormaps["Blues"].with_extremes(bad="#dddddd")
    colours = axes.imshow(
        relative, aspect="auto", cmap=blues, vmin=0, vmax=1.25, interpolation="none"
    )
    colours.set_gid(name)  # else two panels that look alike would share an id
    _mark_excluded(axes, relative)
    attacked = rows["group"].to_numpy(str) == "attacker"
    for i, j in zip(y[attacked], x[attacked], strict=True):
        axes.add_patch(_create_frame(float(j), float(i)))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.xaxis.set_major_formatter(lambda place, _: _format_round(place, rounds))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(num_clients, MANY)))


def _format_round(place: float, rounds: Sequence[int]) -> str:
    """Return the number of the round at a place of the axis."""
    return str(rounds[int(place)]) if 0 <= place < len(rounds) else ""


def _mark_excluded(axes: Axes, relative: NDArray[np.float64]) -> None:
    """Put a dot where an update was left out, which is paler than little."""
    i, j = np.nonzero(relative == 0)
    size = 60 / max(relative.shape)
    axes.scatter(j, i, s=min(8.0, size), color=INK, linewidths=0)


def _create_frame(x: float, y: float) -> Patch:
    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=1.1)
