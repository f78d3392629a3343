"""Membership leakage: a table of the margin attack and its ROC curves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_sim.report.components import Drawing, Section
from fl_sim.report.formats import AREA, PERCENT, RATE, drop_undefined
from fl_sim.report.grid import Grid
from fl_sim.report.panels import (
    Panel,
    add_axis_legend,
    assign_line_styles,
    choose_line_axis,
    choose_num_columns,
    create_panels,
    label_outer_axes,
    select_panels,
)
from fl_sim.report.setting_tables import build_metric_cell, build_setting_table
from fl_sim.report.style import GREY, PALE, STYLE, export_figure

COLUMNS = (
    ("AUC", "mia_margin_auc", "all", AREA),
    ("AUC, protected records", "mia_margin_auc", "protected", AREA),
    ("AUC, clean records", "mia_margin_auc", "clean", AREA),
    ("balanced accuracy, %", "mia_margin_balanced_accuracy", "all", PERCENT),
    ("TPR at 1 % FPR, %", "mia_margin_tpr_at_0.01", "all", RATE),
    ("TPR at 0.1 % FPR, %", "mia_margin_tpr_at_0.001", "all", RATE),
    ("shift-only AUC", "mia_shift_auc", "all", AREA),
)
LOWEST = 1e-4  # rates below this are drawn at the edge


def build_leakage(grid: Grid) -> Section | None:
    """Return what the margin attack tells members by, with controls and ROC curves."""
    if not any(
        drop_undefined(setting.final_values("mia_margin_auc").values) for setting in grid.finished
    ):
        return None
    made = build_setting_table(
        grid,
        "Membership attack by margin",
        [name for name, _, _, _ in COLUMNS],
        lambda setting: [
            build_metric_cell(setting, metric, form, group) for _, metric, group, form in COLUMNS
        ],
    )
    about = (
        "Can somebody who holds the global model tell who was trained on? Members and outsiders "
        "are matched by client, class and protected status. An AUC of 0.5 is guessing; below 0.5 "
        "is a finding too, and is not flipped.",
        "In brackets: 95 % intervals, DeLong for AUC and Clopper-Pearson for TPR"
        + ("; from the lowest to the highest bound of all seeds." if len(grid.seeds) > 1 else ".")
        + " Grey: should not be read, for the reason in the footnote. The attack by loss, and AUC "
        "by client, are in rows.parquet.",
    )
    curves = draw_membership_roc(grid)
    return Section("leakage", "Membership leakage", about, (made, *([curves] if curves else [])))


class RocCurve(NamedTuple):
    """Hit rates by false alarm rate, at every step, and how many outsiders there were."""

    false_positive_rates: Float[np.ndarray, " s"]
    true_positive_rates: Float[np.ndarray, " s"]
    num_non_members: int

    @property
    def trusted_from(self) -> float:
        """The lowest false alarm rate at which three alarms are expected (rule of three)."""
        return min(1.0, 3 / self.num_non_members)


def compute_roc(signals: pd.DataFrame) -> RocCurve | None:
    """Return the step curve of the margin attack on the audited records.

    None where there is nothing to compare: an empty side, or a margin that is NaN.
    """
    audited = signals[signals["audited"]]
    scores = audited["margin"].to_numpy(float)
    is_member = audited["member"].to_numpy(bool)
    members, outsiders = np.sort(scores[is_member]), np.sort(scores[~is_member])
    if len(members) == 0 or len(outsiders) == 0 or np.isnan(scores).any():
        return None
    thresholds = np.unique(np.append(scores, np.inf))[::-1]
    hits = 1 - np.searchsorted(members, thresholds) / len(members)
    alarms = 1 - np.searchsorted(outsiders, thresholds) / len(outsiders)
    return RocCurve(alarms, hits, len(outsiders))


def draw_membership_roc(grid: Grid) -> Drawing | None:
    """Draw the margin attack's ROC curve of every setting."""
    inside = choose_line_axis(grid)
    panels, others = select_panels(grid, inside)
    curves = _compute_curves(panels, inside)
    if not any(curves.values()):
        return None
    about = (
        "Membership attack by margin on the audited records, both axes logarithmic: the share of "
        "members found against the share of outsiders wrongly accused, of "
        f"{grid.shown_seeds}. Dashed: guessing. Grey: below 3 / outsiders, where a rate "
        "rests on fewer than three expected false alarms and should not be read."
    )
    about += others
    return export_figure("membership_roc", _create_roc_figure(grid, inside, curves), about, about)


Curves = dict[str, list[tuple[str, RocCurve]]]


def _compute_curves(panels: Sequence[Panel], inside: str | None) -> Curves:
    """Return the curves of every panel, each with the value of the axis inside."""
    found: Curves = {}
    for panel in panels:
        own = found.setdefault(panel.title, [])
        for setting in panel.settings:
            signals = setting.read_signals()
            curve = compute_roc(signals) if signals is not None else None
            if curve is not None:
                own.append((setting.values[inside] if inside else "", curve))
    return {title: own for title, own in found.items() if own}


@rc_context(STYLE)
def _create_roc_figure(grid: Grid, inside: str | None, curves: Curves) -> Figure:
    columns = choose_num_columns(grid, inside, len(curves))
    figure, axes = create_panels(list(curves), columns, 2.9, sharex=True, sharey=True)
    styles = assign_line_styles(grid, inside)
    lowest = min(1 / curve.num_non_members for own in curves.values() for _, curve in own)
    edge = max(LOWEST, 0.7 * lowest)
    for panel, own in zip(axes, curves.values(), strict=True):
        _draw_roc_panel(panel, edge, [(styles[word][0], word, curve) for word, curve in own])
    label_outer_axes(axes, columns, "false alarm rate", "hit rate")
    add_axis_legend(figure, axes, grid, inside)
    return figure


def _draw_roc_panel(axes: Axes, edge: float, curves: Sequence[tuple[str, str, RocCurve]]) -> None:
    doubtful = max(curve.trusted_from for _, _, curve in curves)
    axes.axvspan(edge, doubtful, color=PALE, alpha=0.6, linewidth=0)
    axes.plot([edge, 1], [edge, 1], color=GREY, linestyle="--", linewidth=1)
    for colour, word, curve in curves:
        alarms, hits = (
            np.maximum(curve.false_positive_rates, edge),
            np.maximum(curve.true_positive_rates, edge),
        )
        axes.plot(alarms, hits, color=colour, drawstyle="steps-post", linewidth=1.3, label=word)
    axes.set(xscale="log", yscale="log", xlim=(edge, 1), ylim=(edge, 1))
