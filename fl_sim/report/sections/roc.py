"""The attack's ROC curve on log axes, where the few records that leak can be seen."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_sim.report.figures import axis_legend, line_styles
from fl_sim.report.grid import Grid
from fl_sim.report.panels import (
    Panel,
    axes_of,
    drawn_panels,
    label_outside,
    line_axis,
    num_columns,
)
from fl_sim.report.parts import Drawing
from fl_sim.report.style import GREY, PALE, STYLE, drawn

LOWEST = 1e-4  # rates below this are drawn at the edge


class Curve(NamedTuple):
    """Hit rates by false alarm rate, at every step, and how many outsiders there were."""

    alarms: Float[np.ndarray, " s"]
    hits: Float[np.ndarray, " s"]
    num_outsiders: int

    @property
    def trusted_from(self) -> float:
        """The lowest false alarm rate at which three alarms are expected (rule of three)."""
        return min(1.0, 3 / self.num_outsiders)


def curve_of(signals: pd.DataFrame) -> Curve | None:
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
    return Curve(alarms, hits, len(outsiders))


def membership_roc(grid: Grid) -> Drawing | None:
    """Draw the margin attack's ROC curve of every setting."""
    inside = line_axis(grid)
    panels, others = drawn_panels(grid, inside)
    curves = _curves(panels, inside)
    if not any(curves.values()):
        return None
    about = (
        "Membership attack by margin on the audited records, both axes logarithmic: the share of "
        "members found against the share of outsiders wrongly accused, of "
        f"{grid.shown_seeds}. Dashed: guessing. Grey: below 3 / outsiders, where a rate "
        "rests on fewer than three expected false alarms and should not be read."
    )
    about += others
    return drawn("membership_roc", _figure(grid, inside, curves), about, about)


Curves = dict[str, list[tuple[str, Curve]]]


def _curves(panels: Sequence[Panel], inside: str | None) -> Curves:
    """Return the curves of every panel, each with the value of the axis inside."""
    found: Curves = {}
    for panel in panels:
        own = found.setdefault(panel.title, [])
        for setting in panel.settings:
            signals = setting.signals()
            curve = curve_of(signals) if signals is not None else None
            if curve is not None:
                own.append((setting.values[inside] if inside else "", curve))
    return {title: own for title, own in found.items() if own}


@rc_context(STYLE)
def _figure(grid: Grid, inside: str | None, curves: Curves) -> Figure:
    columns = num_columns(grid, inside, len(curves))
    figure, axes = axes_of(list(curves), columns, 2.9, sharex=True, sharey=True)
    styles = line_styles(grid, inside)
    lowest = min(1 / curve.num_outsiders for own in curves.values() for _, curve in own)
    edge = max(LOWEST, 0.7 * lowest)
    for panel, own in zip(axes, curves.values(), strict=True):
        _panel(panel, edge, [(styles[word][0], word, curve) for word, curve in own])
    label_outside(axes, columns, "false alarm rate", "hit rate")
    axis_legend(figure, axes, grid, inside)
    return figure


def _panel(axes: Axes, edge: float, curves: Sequence[tuple[str, str, Curve]]) -> None:
    doubtful = max(curve.trusted_from for _, _, curve in curves)
    axes.axvspan(edge, doubtful, color=PALE, alpha=0.6, linewidth=0)
    axes.plot([edge, 1], [edge, 1], color=GREY, linestyle="--", linewidth=1)
    for colour, word, curve in curves:
        alarms, hits = np.maximum(curve.alarms, edge), np.maximum(curve.hits, edge)
        axes.plot(alarms, hits, color=colour, drawstyle="steps-post", linewidth=1.3, label=word)
    axes.set(xscale="log", yscale="log", xlim=(edge, 1), ylim=(edge, 1))
