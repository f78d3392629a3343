"""Membership leakage: a table of the margin attack and its ROC curves."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib import rc_context
from matplotlib.axes import Axes

from fl_sim.report.components import Drawing, Section
from fl_sim.report.formats import AREA, PERCENT, RATE, drop_undefined
from fl_sim.report.grid import Grid
from fl_sim.report.panels import (
    add_axis_legend,
    assign_line_styles,
    choose_line_axis,
    choose_num_columns,
    create_panels,
    select_panels,
)
from fl_sim.report.setting_tables import Column, build_metric_table
from fl_sim.report.style import GREY, PALE, STYLE, export_figure

COLUMNS: tuple[Column, ...] = (
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
    settings = grid.finished
    if not any(drop_undefined(s.final_values("mia_margin_auc").values) for s in settings):
        return None
    table = build_metric_table(grid, "Membership attack by margin", COLUMNS, keep_empty=True)
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
    components = (table, curves) if curves else (table,)
    return Section("leakage", "Membership leakage", paragraphs, components)


class RocCurve(NamedTuple):
    """False positive rates and numbers of true positives per threshold, and those of records."""

    false_positive_rates: Float[np.ndarray, " s"]
    true_positives: Float[np.ndarray, " s"]
    num_members: int
    num_non_members: int

    @classmethod
    def from_scores(
        cls, scores: Float[np.ndarray, " n"], is_member: Bool[np.ndarray, " n"]
    ) -> "RocCurve":
        """Return the curve with a threshold at infinity and at every distinct score."""
        members, non_members = np.sort(scores[is_member]), np.sort(scores[~is_member])
        thresholds = np.unique(np.append(scores, np.inf))[::-1]
        true_positives = len(members) - np.searchsorted(members, thresholds).astype(float)
        below = np.searchsorted(non_members, thresholds) / max(1, len(non_members))
        return cls(1 - below, true_positives, len(members), len(non_members))

    @property
    def true_positive_rates(self) -> Float[np.ndarray, " s"]:
        """The share of the members that are found at every threshold."""
        return self.true_positives / self.num_members

    @property
    def trusted_from(self) -> float:
        """The lowest FPR at which three false positives are expected (rule of three)."""
        return min(1.0, 3 / self.num_non_members)


def compute_roc(signals: pd.DataFrame) -> RocCurve | None:
    """Return the ROC curve of the margin attack on the audited records.

    It is None if there are no members, no non-members, or margins that are NaN.
    """
    audited = signals[signals["audited"]]
    if audited["member"].nunique() < 2 or audited["margin"].isna().any():
        return None
    return RocCurve.from_scores(audited["margin"].to_numpy(float), audited["member"].to_numpy(bool))


def draw_roc_axes(axes: Axes, edge: float, trusted_from: float) -> None:
    """Draw logarithmic axes from `edge` to 1, the chance level, and the rates not to be read."""
    axes.axvspan(edge, trusted_from, color=PALE, alpha=0.6, linewidth=0)
    axes.plot([edge, 1], [edge, 1], color=GREY, linestyle="--", linewidth=1)
    axes.set(xscale="log", yscale="log", xlim=(edge, 1), ylim=(edge, 1))
    axes.minorticks_off()  # most of the time of such a figure


@rc_context(STYLE)
def draw_membership_roc(grid: Grid) -> Drawing | None:
    """Draw the ROC curve of the margin attack for every setting."""
    inside = choose_line_axis(grid)
    panels, others = select_panels(grid, inside)
    curves: dict[str, list[tuple[str, RocCurve]]] = {}
    for title, settings in panels:
        for setting in settings:
            value = setting.values[inside] if inside else ""
            for curve in map(compute_roc, setting.read_signals()):
                if curve is not None:
                    curves.setdefault(title, []).append((value, curve))
    if not curves:
        return None
    caption = (
        "ROC curves of the margin attack on the audited records, with logarithmic axes, one per "
        "seed. Dashed: chance level. Grey: false positive rates below "
        "3 / non-members, which rest on fewer than three false positives and should not be read."
    )
    columns = choose_num_columns(grid, inside)
    labels = ("false positive rate", "true positive rate")
    figure, axes = create_panels(list(curves), columns, 2.9, labels, sharex=True, sharey=True)
    styles = assign_line_styles(grid, inside)
    most = max(curve.num_non_members for in_panel in curves.values() for _, curve in in_panel)
    edge = max(LOWEST, 0.7 * (1 / most))
    for ax, in_panel in zip(axes, curves.values(), strict=True):
        draw_roc_axes(ax, edge, max(curve.trusted_from for _, curve in in_panel))
        for value, curve in in_panel:
            x = np.maximum(curve.false_positive_rates, edge)
            y = np.maximum(curve.true_positive_rates, edge)
            ax.plot(x, y, color=styles[value][0], drawstyle="steps-post", lw=1.1, label=value)
    add_axis_legend(figure, axes, grid, inside)
    return export_figure("membership_roc", figure, caption + others)
