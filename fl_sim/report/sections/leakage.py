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
LOWEST = 1e-4  # lower rates are drawn at the edge


def build_leakage(grid: Grid) -> Section | None:
    """Return the results of the margin attack, with controls and ROC curves."""
    if not any(
        drop_undefined(setting.final_values("mia_margin_auc").values) for setting in grid.finished
    ):
        return None
    attack_table = build_setting_table(
        grid,
        "Membership attack by margin",
        [name for name, _, _, _ in COLUMNS],
        lambda setting: [
            build_metric_cell(setting, metric, form, group) for _, metric, group, form in COLUMNS
        ],
    )
    paragraphs = (
        "Can an attacker with access to the global model tell members, the records that were "
        "trained on, from non-members? Both are matched by client, class and protected status. An "
        "AUC of 0.5 is chance level; values below 0.5 are shown as they are.",
        "In brackets: 95 % intervals, by DeLong for AUC and Clopper-Pearson for TPR"
        + (", from the lowest to the highest bound over seeds." if len(grid.seeds) > 1 else ".")
        + " Grey numbers should not be read, for the reason in the footnote. The loss attack and "
        "the AUC per client are in rows.parquet.",
    )
    curves = draw_membership_roc(grid)
    return Section(
        "leakage", "Membership leakage", paragraphs, (attack_table, *([curves] if curves else []))
    )


class RocCurve(NamedTuple):
    """True and false positive rates at every threshold, and the number of non-members."""

    false_positive_rates: Float[np.ndarray, " s"]
    true_positive_rates: Float[np.ndarray, " s"]
    num_non_members: int

    @property
    def trusted_from(self) -> float:
        """The lowest FPR at which three false positives are expected (rule of three)."""
        return min(1.0, 3 / self.num_non_members)


def compute_roc(signals: pd.DataFrame) -> RocCurve | None:
    """Return the ROC curve of the margin attack on the audited records.

    It is None if there are no members, no non-members, or margins that are NaN.
    """
    audited = signals[signals["audited"]]
    scores = audited["margin"].to_numpy(float)
    is_member = audited["member"].to_numpy(bool)
    members, non_members = np.sort(scores[is_member]), np.sort(scores[~is_member])
    if len(members) == 0 or len(non_members) == 0 or np.isnan(scores).any():
        return None
    thresholds = np.unique(np.append(scores, np.inf))[::-1]
    true_positives = 1 - np.searchsorted(members, thresholds) / len(members)
    false_positives = 1 - np.searchsorted(non_members, thresholds) / len(non_members)
    return RocCurve(false_positives, true_positives, len(non_members))


def draw_membership_roc(grid: Grid) -> Drawing | None:
    """Draw the ROC curve of the margin attack for every setting."""
    inside = choose_line_axis(grid)
    panels, others = select_panels(grid, inside)
    curves = _compute_curves(panels, inside)
    if not any(curves.values()):
        return None
    caption = (
        "ROC curve of the margin attack on the audited records, with logarithmic axes, in "
        f"{grid.shown_seeds}. Dashed: chance level. Grey: false positive rates below "
        "3 / non-members, which rest on fewer than three false positives and should not be read."
    )
    caption += others
    return export_figure(
        "membership_roc", _create_roc_figure(grid, inside, curves), caption, caption
    )


Curves = dict[str, list[tuple[str, RocCurve]]]


def _compute_curves(panels: Sequence[Panel], inside: str | None) -> Curves:
    """Return the curves by panel title, each with its value of the axis `inside`."""
    curves_by_panel: Curves = {}
    for panel in panels:
        curves = curves_by_panel.setdefault(panel.title, [])
        for setting in panel.settings:
            signals = setting.read_signals()
            curve = compute_roc(signals) if signals is not None else None
            if curve is not None:
                curves.append((setting.values[inside] if inside else "", curve))
    return {title: curves for title, curves in curves_by_panel.items() if curves}


@rc_context(STYLE)
def _create_roc_figure(grid: Grid, inside: str | None, curves: Curves) -> Figure:
    columns = choose_num_columns(grid, inside, len(curves))
    figure, axes = create_panels(list(curves), columns, 2.9, sharex=True, sharey=True)
    styles = assign_line_styles(grid, inside)
    lowest = min(
        1 / curve.num_non_members for panel_curves in curves.values() for _, curve in panel_curves
    )
    edge = max(LOWEST, 0.7 * lowest)
    for panel, panel_curves in zip(axes, curves.values(), strict=True):
        _draw_roc_panel(
            panel, edge, [(styles[value][0], value, curve) for value, curve in panel_curves]
        )
    label_outer_axes(axes, columns, "false positive rate", "true positive rate")
    add_axis_legend(figure, axes, grid, inside)
    return figure


def _draw_roc_panel(axes: Axes, edge: float, curves: Sequence[tuple[str, str, RocCurve]]) -> None:
    doubtful = max(curve.trusted_from for _, _, curve in curves)
    axes.axvspan(edge, doubtful, color=PALE, alpha=0.6, linewidth=0)
    axes.plot([edge, 1], [edge, 1], color=GREY, linestyle="--", linewidth=1)
    for colour, label, curve in curves:
        false_positives, true_positives = (
            np.maximum(curve.false_positive_rates, edge),
            np.maximum(curve.true_positive_rates, edge),
        )
        axes.plot(
            false_positives,
            true_positives,
            color=colour,
            drawstyle="steps-post",
            linewidth=1.3,
            label=label,
        )
    axes.set(xscale="log", yscale="log", xlim=(edge, 1), ylim=(edge, 1))
