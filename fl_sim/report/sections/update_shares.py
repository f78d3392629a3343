"""Share of each client's update in the step of the rule, per round."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.panels import create_panels, limit_panels
from fl_sim.report.style import COLOURS, GREY, INK, STYLE, export_figure

MAX_PANELS = 9  # panels
MANY = 30  # clients; more are not named
NOTHING, PARTLY, EVEN = "#ffffff", "#9ecae1", "#2171b5"


def build_update_shares(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    return build_figure_section("exclusion", "Share of each update", draw_shares_over_rounds(grid))


@rc_context(STYLE)
def draw_shares_over_rounds(grid: Grid) -> Drawing | None:
    """Draw the share of each client's update per round, with attackers framed."""
    max_panels = limit_panels(grid, MAX_PANELS)
    settings = list(islice((s for s in grid.finished if _is_informative(s)), max_panels))
    if not settings:
        return None
    caption = (
        "Share of each update in the step, times its scale, relative to the largest of its round: "
        "darker is larger. Dot: excluded. Frame: the client attacked in that round. Grey: it sent "
        f"nothing. In {grid.shown_seeds}."
    )
    num_clients = max(int(_scale_shares(setting)["client"].max()) + 1 for setting in settings)
    height, titles = min(6.0, 1.2 + 0.16 * num_clients), [setting.label for setting in settings]
    figure, axes = create_panels(titles, 3, height, ("round", "client"))
    for i, (setting, ax) in enumerate(zip(settings, axes, strict=True)):
        _draw_panel(ax, _scale_shares(setting), num_clients, f"panel-{i}")
    patches = [
        Patch(facecolor=EVEN, label="largest share"),
        Patch(facecolor=PARTLY, label="smaller"),
        Patch(facecolor=NOTHING, edgecolor=GREY, label="excluded"),
        Patch(facecolor=NOTHING, edgecolor=COLOURS[1], linewidth=1.5, label="attacked"),
    ]
    figure.legend(handles=patches, loc="outside upper left", ncols=4)
    return export_figure("shares_over_rounds", figure, caption)


def _is_informative(setting: Setting) -> bool:
    """Return whether any update was excluded or any client attacked."""
    shares, scales = (setting.client_history(name) for name in ("rule_share", "rule_scale"))
    any_excluded = any(bool((table["value"] == 0).any()) for table in (shares, scales))
    if not any_excluded and not (shares["group"] == "attacker").any():
        return False
    rows = _scale_shares(setting)
    return len(rows) > 0 and bool((rows["value"] == 0).any() or (rows["group"] == "attacker").any())


def _scale_shares(setting: Setting) -> pd.DataFrame:
    """Return the shares of the first seed's updates, multiplied by their scales."""
    rows = setting.rows[setting.rows["seed"] == setting.first_seed]
    shares = rows[rows["metric"] == "rule_share"].set_index(["round", "client"])
    scales = rows[rows["metric"] == "rule_scale"].set_index(["round", "client"])["value"]
    counted = shares["value"] * scales.reindex(shares.index).fillna(1.0)
    return shares.assign(value=counted).reset_index()


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
    colours.set_gid(name)  # else two equal panels would share an id
    i, j = np.nonzero(relative == 0)  # dots, as excluded is hard to tell from little by colour
    axes.scatter(j, i, s=min(8.0, 60 / max(relative.shape)), color=INK, linewidths=0)
    attacked = rows["group"].to_numpy(str) == "attacker"
    for i, j in zip(y[attacked], x[attacked], strict=True):
        frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=1.1)
        axes.add_patch(frame)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.xaxis.set_major_formatter(lambda place, _: _format_round(place, rounds))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(num_clients, MANY)))


def _format_round(place: float, rounds: Sequence[int]) -> str:
    """Return the label of the round at a position of the axis, or an empty string."""
    return str(rounds[int(place)]) if 0 <= place < len(rounds) else ""
