"""Fairness of accuracy over clients and groups of clients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_sim.report.components import Drawing, Section
from fl_sim.report.formats import INDEX, PERCENT, POINTS, SQUARED
from fl_sim.report.grid import Grid, Setting, drop_invalid
from fl_sim.report.panels import add_group_legend, describe_omitted, limit_panels
from fl_sim.report.setting_tables import Column, build_metric_table, has_values, list_notes
from fl_sim.report.style import GROUP_COLOURS, INK, STYLE, create_figure, export_figure

KINDS = ("mixed", "protected", "attacker")  # beside clean: groups that deserve a table
ACCURACY: tuple[Column, ...] = (
    ("mean, %", "fairness_mean", "all", PERCENT),
    ("worst client, %", "fairness_worst_client", "all", PERCENT),
    ("worst 10 %, %", "fairness_worst_10_percent", "all", PERCENT),
    ("CVaR 10 %, %", "fairness_cvar_10_percent", "all", PERCENT),
    ("best 10 %, %", "fairness_best_10_percent", "all", PERCENT),
    ("parity gap, points", "fairness_parity_gap", "all", PERCENT),
    ("spread, points", "fairness_spread", "all", PERCENT),
    ("variance, %²", "fairness_variance", "all", SQUARED),
    ("Jain", "fairness_jain", "all", INDEX),
    ("Gini", "fairness_gini", "all", INDEX),
    ("entropy", "fairness_entropy", "all", INDEX),
)
GROUPS: tuple[Column, ...] = (
    ("clean, %", "fairness_mean", "clean", PERCENT),
    ("mixed, %", "fairness_mean", "mixed", PERCENT),
    ("protected, %", "fairness_mean", "protected", PERCENT),
    ("attackers, %", "fairness_mean", "attacker", PERCENT),
    ("protected gap, points", "fairness_protected_gap", "all", POINTS),
    ("attacker gap, points", "fairness_attacker_gap", "all", POINTS),
    ("worst honest client, %", "fairness_worst_client", "honest", PERCENT),
    ("honest spread, points", "fairness_spread", "honest", PERCENT),
)
MAX_ROWS = 36  # settings, one under the other
ROW_HEIGHT = 0.24  # inches
JITTER = 0.26  # of a row, to each side
GOLDEN_RATIO = 0.6180339887  # steps that never line up: dots side by side, the same ones each time


def build_fairness(grid: Grid) -> Section | None:
    """Return how evenly the model serves the clients, and groups of them."""
    if not grid.has_clients:
        return None
    about = (
        "Of the clients' accuracies on their own mixes of classes, after the last round. An even "
        "federation has spread, variance, parity gap and Gini 0, and Jain and entropy 1.",
        *list_notes(grid, "fairness_mean"),
    )
    parts = [
        build_metric_table(grid, "Fairness over clients", ACCURACY),
        draw_accuracy_spread(grid),
    ]
    if has_values(grid, GROUPS[:1], KINDS):
        parts.append(build_metric_table(grid, "Groups of clients", GROUPS))
    return Section("fairness", "Fairness", about, tuple(part for part in parts if part is not None))


def draw_accuracy_spread(grid: Grid) -> Drawing | None:
    """Draw the accuracy of every client of every seed, one line of dots a setting."""
    settings = grid.finished[: limit_panels(grid, MAX_ROWS)]
    if not settings:
        return None
    about = (
        "Every dot is a client of a seed, at its accuracy on its own mix of classes after the "
        "last round; the stroke is the mean over clients and seeds, the triangle the mean over "
        "seeds of the worst client. Clients whose accuracy is not defined are not drawn"
        f"{_count_missing(settings)}."
    )
    about += describe_omitted(grid, settings)
    return export_figure("accuracy_spread", _create_spread_figure(grid, settings), about, about)


@rc_context(STYLE)
def _create_spread_figure(grid: Grid, settings: Sequence[Setting]) -> Figure:
    figure = create_figure(1.1 + ROW_HEIGHT * len(settings))
    axes = figure.subplots()
    there: set[str] = set()
    for place, setting in enumerate(settings):
        rows = drop_invalid(setting.client_rows("client_accuracy"))
        _draw_dots(axes, rows, place)
        there |= set(rows["group"])
        worst = rows.groupby("seed")["value"].min().mean()
        axes.plot([100 * rows["value"].mean()] * 2, [place - 0.4, place + 0.4], color=INK, lw=1.6)
        axes.plot(100 * worst, place - 0.42, marker="v", color=INK, markersize=4.5, linestyle="")
    axes.set_yticks(range(len(settings)), [setting.label or grid.name for setting in settings])
    axes.set_ylim(len(settings) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("accuracy of a client, %")
    add_group_legend(figure, there)
    return figure


def _draw_dots(axes: Axes, rows: pd.DataFrame, place: int) -> None:
    """Draw clients on a line, pushed a little up and down so that equal ones can be seen."""
    shift = JITTER * (2 * ((np.arange(len(rows)) * GOLDEN_RATIO) % 1) - 1)
    colours = [GROUP_COLOURS[group] for group in rows["group"]]
    alpha = 0.85 if len(rows) <= 60 else 0.35
    axes.scatter(
        100 * rows["value"], place + shift, s=14, c=colours, alpha=alpha, linewidths=0, zorder=3
    )


def _count_missing(settings: Sequence[Setting]) -> str:
    """Return how many accuracies are not defined, in brackets; nothing where all are."""
    tables = [setting.client_rows("client_accuracy") for setting in settings]
    count, missing = (
        sum(map(len, tables)),
        sum(len(own) - len(drop_invalid(own)) for own in tables),
    )
    return f" ({missing} of {count})" if missing else ""
