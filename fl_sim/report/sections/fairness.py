"""Fairness over clients: of accuracy, of privacy, and of what taking part gives."""

from collections.abc import Sequence

from fl_sim.report.formats import AREA, INDEX, PERCENT, POINTS, RATIO, SIGNED_AREA, SQUARED, Form
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.measured import measured_cell, setting_table
from fl_sim.report.parts import Cell, Drawing, Section, Table
from fl_sim.report.sections.spreads import accuracy_and_leakage, accuracy_spread

KINDS = ("mixed", "protected", "attacker")  # beside clean: groups that deserve a table
Column = tuple[str, str, str, Form]  # heading, metric, group, form

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
PRIVACY: tuple[Column, ...] = (
    ("mean AUC", "fairness_leakage_mean", "all", AREA),
    ("worst client", "fairness_leakage_worst_client", "all", AREA),
    ("worst 10 %", "fairness_leakage_worst_10_percent", "all", AREA),
    ("parity gap", "fairness_leakage_parity_gap", "all", AREA),
    ("spread", "fairness_leakage_spread", "all", AREA),
    ("excess spread", "fairness_leakage_excess_spread", "all", AREA),
    ("Jain", "fairness_leakage_jain", "all", INDEX),
    ("Gini", "fairness_leakage_gini", "all", INDEX),
)
PRIVACY_GROUPS: tuple[Column, ...] = (
    ("clean", "fairness_leakage_mean", "clean", AREA),
    ("mixed", "fairness_leakage_mean", "mixed", AREA),
    ("protected", "fairness_leakage_mean", "protected", AREA),
    ("attackers", "fairness_leakage_mean", "attacker", AREA),
    ("protected gap", "fairness_leakage_protected_gap", "all", SIGNED_AREA),
    ("attacker gap", "fairness_leakage_attacker_gap", "all", SIGNED_AREA),
)
BENEFIT: tuple[Column, ...] = (
    ("mean gain, points", "fairness_benefit_mean", "all", POINTS),
    ("spread of gains, points", "fairness_benefit_spread", "all", PERCENT),
    ("worse off, % of clients", "fairness_worse_off", "all", PERCENT),
    ("correlation with alone", "fairness_collaboration_alone", "all", RATIO),
    ("with leave-one-out", "fairness_collaboration_leave_one_out", "all", RATIO),
    ("with Shapley", "fairness_collaboration_shapley", "all", RATIO),
    ("with cosine", "fairness_collaboration_cosine", "all", RATIO),
)


def fairness(grid: Grid) -> Section | None:
    """Return how evenly the model serves the clients, and groups of them."""
    if not grid.has_clients:
        return None
    about = (
        "Of the clients' accuracies on their own mixes of classes, after the last round. An even "
        "federation has spread, variance, parity gap and Gini 0, and Jain and entropy 1.",
        *_left_out(grid, "fairness_mean"),
    )
    parts = [_table(grid, "Fairness over clients", ACCURACY), accuracy_spread(grid)]
    if _has(grid, GROUPS[:1], KINDS):
        parts.append(_table(grid, "Groups of clients", GROUPS))
    return _section("fairness", "Fairness", about, parts)


def privacy(grid: Grid) -> Section | None:
    """Return how unevenly membership leaks, and who pays for its accuracy with it."""
    if not grid.has_clients or not _has(grid, PRIVACY[:1]):
        return None
    about = (
        "Of the AUCs of the margin attack on each client's own records: who pays with privacy. "
        "Here the worst are the highest. A client is audited on few records, so AUCs differ even "
        "where all leak alike; the excess spread leaves that out, and 0 is even.",
        *_left_out(grid, "fairness_leakage_mean"),
    )
    parts = [_table(grid, "Leakage over clients", PRIVACY), accuracy_and_leakage(grid)]
    if _has(grid, PRIVACY[:1], KINDS):
        parts.append(_table(grid, "Leakage by group of clients", PRIVACY_GROUPS))
    return _section("privacy", "Fairness of privacy", about, parts)


def benefit(grid: Grid) -> Section | None:
    """Return what clients gain by taking part, and whether those who give more get more."""
    if not grid.has_clients or not _has(grid, BENEFIT):
        return None
    about = (
        "A gain is a client's accuracy under the global model minus that of a model that it "
        "trained alone. Correlations are Pearson's, of accuracy with what a client gives: its "
        "accuracy alone, or what its last update adds. 1: whoever gives more gets more; about 0: "
        "giving does not matter.",
        *_left_out(grid, "fairness_benefit_mean"),
    )
    return _section("benefit", "What taking part gives", about, [_table(grid, "Gains", BENEFIT)])


def _left_out(grid: Grid, metric: str) -> list[str]:
    """Return what statistics say of the clients that are not in them, a sentence a setting."""
    found: dict[str, list[str]] = {}
    for setting in grid.finished:
        for note in dict.fromkeys(setting.numbers(metric).notes):
            if note:
                found.setdefault(str(note), []).append(setting.label or grid.name)
    return [f"{', '.join(labels)}: {note}." for note, labels in found.items()]


def _section(
    name: str, title: str, about: tuple[str, ...], parts: Sequence[Table | Drawing | None]
) -> Section:
    return Section(name, title, about, tuple(part for part in parts if part is not None))


def _table(grid: Grid, caption: str, columns: Sequence[Column]) -> Table:
    """Return the columns that any setting has a number for."""
    there = [column for column in columns if _has(grid, [column])]

    def cells(setting: Setting) -> list[Cell]:
        return [measured_cell(setting, metric, form, group) for _, metric, group, form in there]

    return setting_table(grid, caption, [heading for heading, *_ in there], cells)


def _has(grid: Grid, columns: Sequence[Column], groups: Sequence[str] = ()) -> bool:
    """Say whether any setting has a row of any of the columns (or of the groups)."""
    wanted = groups or [group for _, _, group, _ in columns]
    return any(
        bool(setting.numbers(metric, group).values)
        for setting in grid.finished
        for _, metric, _, _ in columns
        for group in wanted
    )
