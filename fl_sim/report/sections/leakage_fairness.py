"""Fairness of privacy: leakage over clients and groups of clients."""

from itertools import islice

import pandas as pd
from matplotlib import rc_context

from fl_sim.report.components import Drawing, Section
from fl_sim.report.formats import AREA, INDEX, SIGNED_AREA
from fl_sim.report.grid import Grid, Setting, drop_invalid
from fl_sim.report.panels import add_group_legend, create_panels, describe_omitted, limit_panels
from fl_sim.report.setting_tables import Column, build_metric_table, has_values, list_notes
from fl_sim.report.style import GREY, GROUP_COLOURS, STYLE, export_figure

KINDS = ("mixed", "protected", "attacker")  # groups beside `clean` for which a table is shown
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
MAX_PANELS = 12


def build_leakage_fairness(grid: Grid) -> Section | None:
    """Return statistics of the leakage over clients and groups of clients."""
    if not grid.has_clients or not has_values(grid, PRIVACY[:1]):
        return None
    paragraphs = (
        "Statistics of the AUCs of the margin attack on each client's own records; the worst "
        "clients have the highest AUC. As few records are audited per client, AUCs differ even if "
        "all clients leak equally; the excess spread corrects for this, and 0 is even.",
        *list_notes(grid, "fairness_leakage_mean"),
    )
    components = [
        build_metric_table(grid, "Leakage over clients", PRIVACY),
        draw_accuracy_and_leakage(grid),
    ]
    if has_values(grid, PRIVACY[:1], KINDS):
        components.append(build_metric_table(grid, "Leakage by group of clients", PRIVACY_GROUPS))
    return Section("privacy", "Fairness of privacy", paragraphs, tuple(filter(None, components)))


@rc_context(STYLE)
def draw_accuracy_and_leakage(grid: Grid) -> Drawing | None:
    """Draw the AUC of the margin attack against the accuracy, one dot per client and seed."""
    max_panels = limit_panels(grid, MAX_PANELS)
    settings = list(islice((s for s in grid.finished if len(_pair_values(s))), max_panels))
    if not settings:
        return None
    caption = (
        "AUC of the margin attack on each client's own records against the client's accuracy after "
        "the last round, one dot per client and seed. Dashed: chance level. Clients at the top "
        "leak most; clients on the left are served worst. Clients for which either is not defined "
        "are not drawn."
    )
    caption += describe_omitted(grid, settings)
    titles, labels = [setting.label for setting in settings], ("accuracy of a client, %", "AUC")
    figure, axes = create_panels(titles, 3, 2.4, labels, sharex=True, sharey=True)
    groups: set[str] = set()
    for setting, ax in zip(settings, axes, strict=True):
        pairs = _pair_values(setting)
        groups |= set(pairs["group"])
        colours = [GROUP_COLOURS[group] for group in pairs["group"]]
        ax.axhline(0.5, color=GREY, linestyle="--", linewidth=0.8)
        x, y = 100 * pairs["value"], pairs["area"]
        ax.scatter(x, y, s=16, c=colours, alpha=0.8, linewidths=0, zorder=3)
    add_group_legend(figure, groups)
    return export_figure("accuracy_and_leakage", figure, caption)


def _pair_values(setting: Setting) -> pd.DataFrame:
    """Return accuracy and AUC per client and seed that has both."""
    areas = drop_invalid(setting.client_rows("mia_margin_auc"))[["seed", "client", "value"]]
    accuracies = drop_invalid(setting.client_rows("client_accuracy"))
    return accuracies.merge(areas.rename(columns={"value": "area"}), on=["seed", "client"])
