"""Every client as a dot: how accuracies are spread, and who pays for them with privacy."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fl_sim.report.grid import Grid, Setting
from fl_sim.report.panels import axes_of, few_panels, label_outside, undrawn
from fl_sim.report.parts import Drawing
from fl_sim.report.sections.clients import GROUPS
from fl_sim.report.style import GREY, INK, STYLE, canvas, drawn

MAX_ROWS = 36  # settings, one under the other
MAX_PANELS = 12
ROW = 0.24  # inches
JITTER = 0.26  # of a row, to each side
GOLDEN = 0.6180339887  # steps that never line up: dots side by side, the same ones each time


def accuracy_spread(grid: Grid) -> Drawing | None:
    """Draw the accuracy of every client of every seed, one line of dots a setting."""
    settings = grid.finished[: few_panels(grid, MAX_ROWS)]
    if not settings:
        return None
    about = (
        "Every dot is a client of a seed, at its accuracy on its own mix of classes after the "
        "last round; the stroke is the mean over clients and seeds, the triangle the mean over "
        "seeds of the worst client. Clients whose accuracy is not defined are not drawn"
        f"{_how_many(settings)}."
    )
    about += undrawn(grid, settings)
    return drawn("accuracy_spread", _spread_figure(grid, settings), about, about)


@rc_context(STYLE)
def _spread_figure(grid: Grid, settings: Sequence[Setting]) -> Figure:
    figure = canvas(1.1 + ROW * len(settings))
    axes = figure.subplots()
    there: set[str] = set()
    for place, setting in enumerate(settings):
        rows = _known(setting.all_clients("client_accuracy"))
        _dots(axes, rows, place)
        there |= set(rows["group"])
        worst = rows.groupby("seed")["value"].min().mean()
        axes.plot([100 * rows["value"].mean()] * 2, [place - 0.4, place + 0.4], color=INK, lw=1.6)
        axes.plot(100 * worst, place - 0.42, marker="v", color=INK, markersize=4.5, linestyle="")
    axes.set_yticks(range(len(settings)), [setting.label or grid.name for setting in settings])
    axes.set_ylim(len(settings) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("accuracy of a client, %")
    _legend(figure, there)
    return figure


def _dots(axes: Axes, rows: pd.DataFrame, place: int) -> None:
    """Draw clients on a line, pushed a little up and down so that equal ones can be seen."""
    shift = JITTER * (2 * ((np.arange(len(rows)) * GOLDEN) % 1) - 1)
    colours = [GROUPS[group] for group in rows["group"]]
    alpha = 0.85 if len(rows) <= 60 else 0.35
    axes.scatter(
        100 * rows["value"], place + shift, s=14, c=colours, alpha=alpha, linewidths=0, zorder=3
    )


def accuracy_and_leakage(grid: Grid) -> Drawing | None:
    """Draw every client at its accuracy and at the AUC of the attack on its records."""
    most = few_panels(grid, MAX_PANELS)
    settings = list(islice((own for own in grid.finished if len(_pairs(own))), most))
    if not settings:
        return None
    about = (
        "Every dot is a client of a seed, after the last round: its accuracy, and how well the "
        "margin attack tells its members from its outsiders. The dashed line is guessing. Clients "
        "far up pay for the model with their privacy; those far left get little for it. Clients of "
        "which either is not defined are not drawn."
    )
    about += undrawn(grid, settings)
    return drawn("accuracy_and_leakage", _leakage_figure(settings), about, about)


@rc_context(STYLE)
def _leakage_figure(settings: Sequence[Setting]) -> Figure:
    columns = min(3, len(settings))
    titles = [setting.label for setting in settings]
    figure, axes = axes_of(titles, columns, 2.4, sharex=True, sharey=True)
    there: set[str] = set()
    for setting, own in zip(settings, axes, strict=True):
        pairs = _pairs(setting)
        there |= set(pairs["group"])
        colours = [GROUPS[group] for group in pairs["group"]]
        own.axhline(0.5, color=GREY, linestyle="--", linewidth=0.8)
        own.scatter(
            100 * pairs["value"], pairs["area"], s=16, c=colours, alpha=0.8, linewidths=0, zorder=3
        )
    label_outside(axes, columns, "accuracy of a client, %", "AUC")
    _legend(figure, there)
    return figure


def _pairs(setting: Setting) -> pd.DataFrame:
    """Return accuracy and AUC of each client of each seed that has both."""
    areas = _known(setting.all_clients("mia_margin_auc"))[["seed", "client", "value"]]
    accuracies = _known(setting.all_clients("client_accuracy"))
    return accuracies.merge(areas.rename(columns={"value": "area"}), on=["seed", "client"])


def _how_many(settings: Sequence[Setting]) -> str:
    """Return how many accuracies are not defined, in brackets; nothing where all are."""
    tables = [setting.all_clients("client_accuracy") for setting in settings]
    count, missing = sum(map(len, tables)), sum(len(own) - len(_known(own)) for own in tables)
    return f" ({missing} of {count})" if missing else ""


def _known(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["valid"].astype(bool) & rows["value"].notna()]


def _legend(figure: Figure, there: set[str]) -> None:
    marks = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=group)
        for group, colour in GROUPS.items()
        if group in there
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=max(1, len(marks)))
