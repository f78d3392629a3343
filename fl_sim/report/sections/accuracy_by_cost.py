"""Accuracy of every setting against the traffic and processor time that it took so far."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.grid import Grid, Setting, shorten_path
from fl_sim.report.panels import (
    MAX_LINES,
    add_legend,
    choose_line_axis,
    create_panels,
    limit_panels,
)
from fl_sim.report.style import MARKERS, STYLE, choose_colours, export_figure
from fl_sim.report.tradeoffs import scale_costs

COSTS = {  # names of the figures: label of the x axis, metrics that are added up, factor
    "megabytes": ("MB up and down so far", ("bytes_up", "bytes_down"), 1e-6),
    "cpu_seconds": ("CPU seconds so far", ("cpu_seconds",), 1.0),
}
MIN_RATIO = 1.05  # of the largest to the smallest number of bytes


class CostLine(NamedTuple):
    """A setting's line: mean cost so far, and mean and standard deviation of the accuracy."""

    costs: Float[np.ndarray, " rounds"]
    accuracies: Float[np.ndarray, " rounds"]
    spreads: Float[np.ndarray, " rounds"]


def build_accuracy_by_cost(grid: Grid) -> Section | None:
    """Return the figures, or None if settings do not differ in the bytes that they send."""
    sent = [value for s in grid.finished for value in s.summary_values("cost.bytes_up")]
    if not grid.has_history or not sent or not max(sent) > MIN_RATIO * min(sent):
        return None
    drawings = [draw_accuracy_by_cost(grid, name) for name in COSTS]
    return build_figure_section("by_cost", "Accuracy against cost", *drawings)


@rc_context(STYLE)
def draw_accuracy_by_cost(grid: Grid, name: str) -> Drawing | None:
    """Draw the accuracy after every evaluated round against a cost up to that round.

    Args:
        grid: The grid.
        name: A key of `COSTS`.
    """
    label, metrics, factor = COSTS[name]
    inside = choose_inside(grid)
    groups = _group_settings(grid, inside)
    panels = dict(list(groups.items())[: limit_panels(grid)])
    lines = {
        title: {word: sum_costs(setting, metrics, factor) for word, setting in settings.items()}
        for title, settings in panels.items()
    }
    costs = [float(cost) for panel in lines.values() for line in panel.values() for cost in line[0]]
    if not costs:
        return None
    more = len(groups) - len(panels)
    others = f" The first {len(panels)} of {len(groups)} panels are drawn." if more else ""
    caption = (
        f"Accuracy on clean test images against {label.removesuffix(' so far')} of all rounds so "
        "far and all clients: mean over seeds, with bands of one standard deviation. What clients "
        f"load once before the first round is not counted.{others}"
    )
    columns = 2 if len(lines) in (2, 4) else 3
    figure, axes = create_panels(list(lines), columns, labels=(label, "accuracy, %"), sharey=True)
    words = list(dict.fromkeys(word for panel in lines.values() for word in panel))
    palette = choose_colours(len(words), ordered=False)
    for panel, ax in zip(lines.values(), axes, strict=True):
        scale_costs(ax, costs)
        for word, line in panel.items():
            place = words.index(word)
            _draw_line(ax, line, palette[place], MARKERS[place % len(MARKERS)], word)
    if inside:
        add_legend(figure, axes, ", ".join(map(shorten_path, inside)), words)
    return export_figure(f"accuracy_by_{name}", figure, caption)


def choose_inside(grid: Grid) -> list[str]:
    """Return the axes whose values share a panel: those of the model, as far as lines fit."""
    models = [axis for axis in grid.axes if axis.startswith("model")]
    while math.prod(len(grid.axes[axis]) for axis in models) > MAX_LINES:
        models.pop()
    other = choose_line_axis(grid)
    return models or ([other] if other else [])


def _group_settings(grid: Grid, inside: list[str]) -> dict[str, dict[str, Setting]]:
    """Return the finished settings by the title of their panel and the label of their line."""
    groups: dict[str, dict[str, Setting]] = {}
    for setting in grid.finished:
        own = {a: w for a, w in setting.values.items() if a in inside}
        others = {a: w for a, w in setting.values.items() if a not in inside}
        title = Setting(others, setting.cells, setting.rows, setting.folders).label
        groups.setdefault(title, {})[" · ".join(own.values())] = setting
    return groups


def sum_costs(setting: Setting, metrics: tuple[str, ...], factor: float) -> CostLine:
    """Return the line of a setting; rounds with an undefined cost or accuracy are left out.

    Args:
        setting: The setting.
        metrics: Costs of a round, which are added up.
        factor: Factor from the sum to the unit of the axis.
    """
    tables = [
        setting.metric_rows(name).pivot_table("value", "round", "seed").sort_index().cumsum()
        for name in metrics
    ]
    accuracy = setting.metric_rows("accuracy").pivot_table("value", "round", "seed")
    per_round = pd.concat([table.mean(axis=1) for table in tables], axis=1)
    cost = factor * per_round.sum(axis=1, skipna=False).reindex(accuracy.index)
    middle, spread = accuracy.mean(axis=1), accuracy.std(axis=1).fillna(0)
    known = (cost.notna() & middle.notna()).to_numpy()
    columns = (series.to_numpy(float)[known] for series in (cost, middle, spread))
    return CostLine(*columns)


def _draw_line(axes: Axes, line: CostLine, colour: str, marker: str, label: str) -> None:
    few = marker if len(line.costs) <= 25 else ""
    middle, width = 100 * line.accuracies, 100 * line.spreads
    axes.plot(line.costs, middle, color=colour, marker=few, markersize=3.5, label=label)
    axes.fill_between(line.costs, middle - width, middle + width, color=colour, alpha=0.15, lw=0)
