"""Fairness of accuracy over clients and groups of clients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes

from fl_sim.report.components import Drawing, Section
from fl_sim.report.formats import INDEX, PERCENT, POINTS, SQUARED
from fl_sim.report.grid import Grid, Setting, drop_invalid
from fl_sim.report.panels import add_group_legend, describe_omitted, limit_panels
from fl_sim.report.sections.overview import describe_parts
from fl_sim.report.setting_tables import Column, build_metric_table, has_values, list_notes
from fl_sim.report.style import GROUP_COLOURS, INK, STYLE, create_figure, export_figure

KINDS = ("mixed", "protected", "attacker")  # groups beside `clean` for which a table is shown
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
GOLDEN_RATIO = 0.6180339887  # its multiples mod 1 spread evenly, without randomness


def build_fairness(grid: Grid) -> Section | None:
    """Return statistics of the accuracy over clients and groups of clients."""
    if not grid.has_clients:
        return None
    paragraphs = (
        "Statistics of the clients' accuracies on their own class mixes after the last round. If "
        "all are equal, spread, variance, parity gap and Gini are 0, and Jain and entropy are 1.",
        *list_notes(grid, "fairness_mean"),
    )
    components = [
        build_metric_table(grid, "Fairness over clients", ACCURACY),
        draw_accuracy_spread(grid),
    ]
    if has_values(grid, GROUPS[:1], KINDS):
        components.append(build_metric_table(grid, "Groups of clients", GROUPS))
    domains = _find_domains(grid)
    if domains:
        columns: list[Column] = [
            (f"{name.replace('_', ' ')}, %", "domain_accuracy", name, PERCENT) for name in domains
        ]
        columns.append(("gap, points", "domain_accuracy_gap", "all", PERCENT))
        columns.append(("gap of clients, points", "fairness_domain_gap", "all", PERCENT))
        components.append(build_metric_table(grid, "Domains", columns))
        paragraphs += (
            f"Domains: {'; '.join(describe_parts(grid, 'domains'))}. Gap: highest minus lowest "
            "accuracy of a domain, over the same test images. Gap of clients: the same of the "
            "domains' mean client accuracies, which also differ by the clients' mixes of classes.",
        )
    return Section("fairness", "Fairness", paragraphs, tuple(filter(None, components)))


def _find_domains(grid: Grid) -> list[str]:
    """Return the domains of all settings, in order of their numbers."""
    tables = [setting.rows for setting in grid.finished]
    names = {
        str(name)
        for rows in tables
        for name in rows.loc[rows.metric == "domain_accuracy", "group"].unique()
    }
    return sorted(names, key=lambda name: int(name.removeprefix("domain_")))


@rc_context(STYLE)
def draw_accuracy_spread(grid: Grid) -> Drawing | None:
    """Draw the accuracy of every client and seed as dots, one line per setting."""
    settings = grid.finished[: limit_panels(grid, MAX_ROWS)]
    if not settings:
        return None
    caption = (
        "Accuracy of each client on its own class mix after the last round, one dot per client "
        "and seed. Stroke: mean over clients and seeds. Triangle: worst client, mean over seeds. "
        "Clients whose accuracy is not defined are not drawn"
        f"{_count_missing(settings)}."
    )
    caption += describe_omitted(grid, settings)
    figure = create_figure(1.1 + ROW_HEIGHT * len(settings))
    axes = figure.subplots()
    groups: set[str] = set()
    for place, setting in enumerate(settings):
        rows = drop_invalid(setting.client_rows("client_accuracy"))
        _draw_dots(axes, rows, place)
        groups |= set(rows["group"])
        worst = rows.groupby("seed")["value"].min().mean()
        axes.plot([100 * rows["value"].mean()] * 2, [place - 0.4, place + 0.4], color=INK, lw=1.6)
        axes.plot(100 * worst, place - 0.42, marker="v", color=INK, markersize=4.5, linestyle="")
    axes.set_yticks(range(len(settings)), [setting.label or grid.name for setting in settings])
    axes.set_ylim(len(settings) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("accuracy of a client, %")
    add_group_legend(figure, groups)
    return export_figure("accuracy_spread", figure, caption)


def _draw_dots(axes: Axes, rows: pd.DataFrame, place: int) -> None:
    """Draw clients on a line, shifted a little up and down so that they do not overlap."""
    shift = JITTER * (2 * ((np.arange(len(rows)) * GOLDEN_RATIO) % 1) - 1)
    colours = [GROUP_COLOURS[group] for group in rows["group"]]
    alpha = 0.85 if len(rows) <= 60 else 0.35
    x, y = 100 * rows["value"], place + shift
    axes.scatter(x, y, s=14, c=colours, alpha=alpha, linewidths=0, zorder=3)


def _count_missing(settings: Sequence[Setting]) -> str:
    """Return the number of undefined accuracies in brackets, or an empty string."""
    tables = [setting.client_rows("client_accuracy") for setting in settings]
    count = sum(map(len, tables))
    missing = count - sum(len(drop_invalid(table)) for table in tables)
    return f" ({missing} of {count})" if missing else ""
