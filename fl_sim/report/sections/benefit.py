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
    """Return the gains of the clients, and how they correlate with contributions."""
    if not grid.has_clients or not has_values(grid, BENEFIT):
        return None
    paragraphs = (
        "A gain is a client's accuracy under the global model minus that of a model that it "
        "trained alone. Correlations are Pearson's, of a client's accuracy with its contribution: "
        "its accuracy alone, or what its last update adds. At 1, accuracy follows contribution; "
        "near 0, it does not.",
        *list_notes(grid, "fairness_benefit_mean"),
    )
    gains = build_metric_table(grid, "Gains", BENEFIT)
    return Section("benefit", "Benefit of taking part", paragraphs, (gains,))
