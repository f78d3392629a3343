"""Accuracy of every client."""

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.panels import create_panels, describe_omitted, limit_panels
from fl_sim.report.style import GROUP_COLOURS, INK, STYLE, export_figure

MAX_BARS = 9  # panels of bars
MANY = 30  # clients; more are not named


def build_client_accuracy(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    return build_figure_section("clients", "Accuracy per client", draw_accuracy_by_client(grid))


@rc_context(STYLE)
def draw_accuracy_by_client(grid: Grid) -> Drawing | None:
    """Draw the accuracy of each client on its own class mix, lowest first."""
    settings = grid.finished[: limit_panels(grid, MAX_BARS)]
    if not settings or not grid.has_clients:
        return None
    caption = (
        "Accuracy on each client's own class mix after the last round, lowest first. "
        "The dashed line is the mean over clients. If a client holds a class without a test "
        "image, or the model diverged, its accuracy is not defined. A client is protected if more "
        "than three quarters of its images are, clean below one quarter, mixed in between, and an "
        "attacker in rounds in which it misbehaves."
    )
    if len(grid.seeds) > 1:
        caption += " Bars are means over seeds, dots single seeds."
    caption += describe_omitted(grid, settings)
    titles, labels = [setting.label for setting in settings], ("client", "accuracy, %")
    figure, axes = create_panels(titles, labels=labels, sharey=True)
    groups: set[str] = set()
    for setting, ax in zip(settings, axes, strict=True):
        groups |= set(_draw_bars(ax, setting)["group"])
    patches = [Patch(color=c, label=group) for group, c in GROUP_COLOURS.items() if group in groups]
    figure.legend(handles=patches, loc="outside upper left", ncols=len(patches))
    return export_figure("accuracy_by_client", figure, caption)


def _draw_bars(axes: Axes, setting: Setting) -> pd.DataFrame:
    """Draw the accuracies of the clients, and return the rows of all seeds.

    Bars are means over seeds, in the colour of the first seed's group; dots are single seeds.
    """
    every = setting.client_rows("client_accuracy")
    by_client = every.groupby("client")
    rows = by_client.agg(value=("value", "mean"), group=("group", "first")).reset_index()
    rows = rows.sort_values("value", kind="stable")
    values = 100 * rows["value"].to_numpy(float)
    places = np.arange(len(values))
    axes.bar(places, values, color=[GROUP_COLOURS[group] for group in rows["group"]], width=0.8)
    if len(setting.folders) > 1:
        place_of = dict(zip(rows["client"], places, strict=True))
        x = [place_of[client] for client in every["client"]]
        colours = [GROUP_COLOURS[group] for group in every["group"]]
        heights = 100 * every["value"].to_numpy(float)
        axes.scatter(x, heights, s=9, c=colours, edgecolors=INK, linewidths=0.4, zorder=3)
    if np.isfinite(values).any():
        axes.axhline(float(np.nanmean(values)), color=INK, linestyle="--", linewidth=0.8)
    for place in places[np.isnan(values)]:
        axes.text(place, 1, "not defined", rotation=90, ha="center", va="bottom", fontsize=6)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 100)
    named = len(values) <= MANY
    axes.set_xticks(places if named else [], rows["client"].astype(str) if named else [])
    return every
