"""Benefit of taking part, per client."""

from fl_sim.report.components import Section
from fl_sim.report.formats import PERCENT, POINTS, RATIO
from fl_sim.report.grid import Grid
from fl_sim.report.setting_tables import Column, build_metric_table, has_values, list_notes

BENEFIT: tuple[Column, ...] = (
    ("mean gain, points", "fairness_benefit_mean", "all", POINTS),
    ("spread of gains, points", "fairness_benefit_spread", "all", PERCENT),
    ("worse off, % of clients", "fairness_worse_off", "all", PERCENT),
    ("correlation with alone", "fairness_collaboration_alone", "all", RATIO),
    ("with leave-one-out", "fairness_collaboration_leave_one_out", "all", RATIO),
    ("with Shapley", "fairness_collaboration_shapley", "all", RATIO),
    ("with cosine", "fairness_collaboration_cosine", "all", RATIO),
)


def build_benefit(grid: Grid) -> Section | None:
    """Return what clients gain by taking part, and whether those who give more get more."""
    if not grid.has_clients or not has_values(grid, BENEFIT):
        return None
    about = (
        "A gain is a client's accuracy under the global model minus that of a model that it "
        "trained alone. Correlations are Pearson's, of accuracy with what a client gives: its "
        "accuracy alone, or what its last update adds. 1: whoever gives more gets more; about 0: "
        "giving does not matter.",
        *list_notes(grid, "fairness_benefit_mean"),
    )
    return Section(
        "benefit", "What taking part gives", about, (build_metric_table(grid, "Gains", BENEFIT),)
    )
