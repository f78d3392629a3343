"""Membership leakage as a table."""

from fl_sim.report.formats import AREA, PERCENT, RATE, defined
from fl_sim.report.grid import Grid
from fl_sim.report.measured import measured_cell, setting_table
from fl_sim.report.parts import Section
from fl_sim.report.sections.roc import membership_roc

COLUMNS = (
    ("AUC", "mia_margin_auc", "all", AREA),
    ("AUC, protected records", "mia_margin_auc", "protected", AREA),
    ("AUC, clean records", "mia_margin_auc", "clean", AREA),
    ("balanced accuracy, %", "mia_margin_balanced_accuracy", "all", PERCENT),
    ("TPR at 1 % FPR, %", "mia_margin_tpr_at_0.01", "all", RATE),
    ("TPR at 0.1 % FPR, %", "mia_margin_tpr_at_0.001", "all", RATE),
    ("shift-only AUC", "mia_shift_auc", "all", AREA),
)


def leakage(grid: Grid) -> Section | None:
    """Return what the margin attack tells members by, with controls and ROC curves."""
    if not any(defined(setting.numbers("mia_margin_auc").values) for setting in grid.finished):
        return None
    made = setting_table(
        grid,
        "Membership attack by margin",
        [name for name, _, _, _ in COLUMNS],
        lambda setting: [
            measured_cell(setting, metric, form, group) for _, metric, group, form in COLUMNS
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
    curves = membership_roc(grid)
    return Section("leakage", "Membership leakage", about, (made, *([curves] if curves else [])))
