"""Audits: leakage per attack, per client, and of protected and clean records."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from scipy.special import betaincinv

from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.report.advice import add_advice
from fl_sim.report.components import (
    Cell,
    Component,
    Drawing,
    Section,
    Table,
    build_table,
    drop_empty_columns,
)
from fl_sim.report.formats import (
    AREA,
    PERCENT,
    RATE,
    RATIO,
    UNDEFINED,
    NumberFormat,
    format_count,
    format_interval,
    format_number,
    format_over_seeds,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.panels import create_panels
from fl_sim.report.sections.leakage import RocCurve, draw_roc_axes
from fl_sim.report.style import COLOURS, GREY, INK, STYLE, export_figure
from fl_sim.report.verdicts import CHANCE, CHANCE_LEVEL, includes_chance
from fl_sim.results.folders import AUDIT, read_audit

MAX_PANELS = 12
CURVES = ("loss", "RMIA online", "LiRA online")  # attacks whose ROC curves are drawn
COLUMNS: tuple[tuple[str, str, str, NumberFormat], ...] = (
    ("AUC", "auc", "all", AREA),
    ("AUC, protected records", "auc", "protected", AREA),
    ("AUC, clean records", "auc", "clean", AREA),
    ("TPR at 1 % FPR, %", "tpr_at_0.01", "all", RATE),
    ("PPV at prior 10 %, %", "ppv_at_fixed_0.01_prior_0.1", "all", RATE),
    ("epsilon, at least", "epsilon_at_fixed_0.01", "all", RATIO),
)
SOURCES = (
    ("accuracy on members, %", "source_accuracy"),
    ("accuracy on held-out records, %", "source_held_out_accuracy"),
    ("excess (memorised), points", "source_excess"),
)
COMPARISONS = (
    ("protected members / protected non-members", "auc", "protected", COLOURS[0]),
    ("clean members / clean non-members", "auc", "clean", COLOURS[2]),
    ("protected / clean non-members: shift alone", "shift_only_auc", "all", GREY),
    ("protected members / clean non-members: confounded", "naive_protected_auc", "all", COLOURS[1]),
)


class Audit(NamedTuple):
    """The audit of one run: its findings, the scores of each record, and its summary."""

    findings: pd.DataFrame
    records: pd.DataFrame
    summary: dict[str, Any]

    def rows(self, attack: str, metric: str, group: str, client: int = -1) -> pd.DataFrame:
        """Return the row of a finding, or an empty table."""
        rows = self.findings
        chosen = (rows["attack"] == attack) & (rows["metric"] == metric)
        return rows[chosen & (rows["group"] == group) & (rows["client"] == client)]


def build_audits(grid: Grid) -> Section | None:
    """Return the findings of audits, if any run was audited."""
    audited = [setting for setting in grid.finished if _read_audits(setting)]
    if not audited:
        return None
    paragraphs = (
        describe_audits(grid),
        "Runs audited by `fl-sim audit`. Reference models are heads, trained centrally on random "
        "halves of the pool, or replays of the run from other seeds. Members and non-members are "
        "matched by client, class and protected status; a number is grey where labels alone "
        "distinguish them.",
        "PPV is the probability that a record called a member is one. PPV and epsilon use a "
        "threshold set on reference models at a false positive rate of 1 %. Epsilon, at least: "
        "training with a smaller epsilon would not allow this result, at 95 % confidence.",
    )
    drawn = audited[:MAX_PANELS]
    panels = [(setting.label or grid.name, _read_audits(setting)[0]) for setting in drawn]
    drawings = (_draw_curves(panels), _draw_comparisons(panels), _draw_clients(grid, drawn))
    figures = [drawing for drawing in drawings if drawing is not None]
    tables = (_build_table(grid, audited), *_build_source_tables(grid, audited))
    components: list[Component] = [_draw_areas(panels), *tables, *figures]
    return Section("audit", "Audited leakage", paragraphs, tuple(components))


def describe_audits(grid: Grid) -> str:
    """Return the verdict of the audits in a sentence, or an empty string if there are none.

    It is that of the headline attack: leakage where the interval of its AUC lies above 0.5.
    """
    found = [(s, area) for s in grid.finished if (area := _find_area(s)) is not None]
    if not found:
        return ""
    readable = sorted((pair for pair in found if not pair[1].doubt), key=lambda p: p[1].value)
    if not readable:
        return f"The audit allows no verdict: {found[0][1].doubt}."
    setting, most = readable[-1]
    leaking = [pair for pair in readable if pair[1].low > CHANCE]
    bounds = format_interval(most.low, most.high, AREA)
    words = f"{most.attack} reaches an AUC of {format_number(most.value, AREA)} {bounds}"
    if len(found) > 1:
        words += f" with {grid.name_settings('leakage.auc', setting)[0]}"
    if not leaking:
        which = "" if len(found) == 1 else f" in {len(readable)} audited settings"
        return f"The audit finds no leakage{which}: at most, {words}, which guessing has too."
    several = f" in {len(leaking)} of {format_count(len(found), 'audited setting')}"
    which = several if len(found) > 1 else ""
    return f"Membership leaks{which}: {words}, where guessing has 0.5."


class Area(NamedTuple):
    """AUC of the headline attack on a setting: mean over seeds, and the widest bounds."""

    attack: str
    value: float
    low: float
    high: float
    doubt: str


def _find_area(setting: Setting) -> Area | None:
    audits = _read_audits(setting)
    if not audits:
        return None
    attack = _get_headline(audits[0])
    rows = pd.concat([audit.rows(attack, "auc", "all") for audit in audits])
    rows = rows[rows["value"].notna()] if rows["value"].notna().any() else rows
    notes = [str(n) for n, valid in zip(rows["note"], rows["valid"], strict=True) if not valid]
    doubt = add_advice(notes[0]) if notes else "" if len(rows) else "the attack was not run"
    mean, low, high = rows["value"].mean(), rows["low"].min(), rows["high"].max()
    return Area(attack, float(mean), float(low), float(high), doubt)


def _read_audits(setting: Setting) -> list[Audit]:
    """Return the readable audits of a setting, in the order of its seeds."""
    folders = [folder for folder in setting.folders.values() if (folder / AUDIT).exists()]
    audits = [_read_audit(folder, (folder / AUDIT).stat().st_mtime_ns) for folder in folders]
    return [audit for audit in audits if audit is not None]


@lru_cache(maxsize=256)
def _read_audit(folder: Path, written: int) -> Audit | None:
    """Return the audit of a run, cached by the time at which it was written.

    An audit with damaged files is None; loading the results reports the damage.
    """
    try:
        audit = read_audit(folder)
    except DamagedFileError:
        return None
    return None if audit is None else Audit(*audit)


def _build_table(grid: Grid, audited: Sequence[Setting]) -> Table:
    rows = []
    for setting in audited:
        audits = _read_audits(setting)
        for attack in map(str, audits[0].findings.query("metric == 'auc'")["attack"].unique()):
            counts = {int(a.summary["num_references"]) for a in audits}
            uses = bool((audits[0].findings.query("attack == @attack")["num_references"] > 0).any())
            kind = audits[0].summary["references"]
            references = f"{'/'.join(map(str, sorted(counts)))} {kind}" if uses else "none"
            extra = "headline" if attack == _get_headline(audits[0]) else ""
            cells = [_build_cell(audits, attack, *column[1:]) for column in COLUMNS]
            heads = [*map(Cell, grid.describe(setting)), Cell(attack, extra=extra)]
            rows.append([*heads, Cell(references), *cells])
    columns = ["references", *(name for name, *_ in COLUMNS)]
    table = build_table(
        "Membership attacks on audited runs", [*grid.heads, "attack"], columns, rows
    )
    return drop_empty_columns(table)


def _build_source_tables(grid: Grid, audited: Sequence[Setting]) -> list[Table]:
    """Return the results of source inference, if the server saw single updates."""
    rows = []
    for setting in audited:
        audits = _read_audits(setting)
        cells = [_build_cell(audits, "source inference", m, "all", PERCENT) for _, m in SOURCES]
        if any(cell.text != UNDEFINED for cell in cells):
            rows.append([*map(Cell, grid.describe(setting)), *cells])
    caption = (
        "Source inference: which client holds a record, by the last updates that the server saw"
    )
    return [build_table(caption, grid.heads, [name for name, _ in SOURCES], rows)] if rows else []


def _build_cell(
    audits: Sequence[Audit], attack: str, metric: str, group: str, form: NumberFormat
) -> Cell:
    """Return a cell with a number over audited seeds, greyed out if it should not be read."""
    rows = pd.concat([audit.rows(attack, metric, group) for audit in audits])
    if rows.empty or rows["value"].isna().all():
        notes = [str(note) for note in rows["note"] if note]
        return Cell(UNDEFINED, add_advice(notes[0]) if notes else "")
    bounds = format_interval(float(rows["low"].min()), float(rows["high"].max()), form)
    doubts = [str(n) for n, valid in zip(rows["note"], rows["valid"], strict=True) if not valid]
    values = [float(value) for value in rows["value"]]
    includes = metric == "auc" and includes_chance(values, list(rows["low"]), list(rows["high"]))
    text, doubt = format_over_seeds(values, form), add_advice(doubts[0]) if doubts else ""
    return Cell(text, doubt, bounds, verdict=CHANCE_LEVEL if includes else "")


Panels = list[tuple[str, Audit]]


@rc_context(STYLE)
def _draw_areas(panels: Panels) -> Drawing:
    """Draw the AUC of every attack with its interval, one panel per audited setting."""
    caption = (
        "AUC of every attack with its 95 % DeLong interval, first audited seed; bold: the headline "
        "attack, which was chosen in advance. Dashed: chance level. Grey and hollow: should not be "
        "read, for the reason below the table."
    )
    attacks = list(
        dict.fromkeys(str(name) for _, audit in panels for name in _list_areas(audit)["attack"])
    )
    height = 0.6 + 0.21 * len(attacks)
    titles = [title for title, _ in panels]
    figure, axes = create_panels(titles, 2, height, ("AUC", ""), sharex=True, sharey=True)
    for panel, (_, audit) in zip(axes, panels, strict=True):
        panel.axvline(CHANCE, color=GREY, linestyle="--", linewidth=1)
        for row, attack in enumerate(attacks):
            finding = audit.rows(attack, "auc", "all")
            if len(finding):
                _draw_interval(panel, row, finding, COLOURS[0])
        panel.set(yticks=range(len(attacks)), yticklabels=attacks)
        panel.set(ylim=(len(attacks) - 0.5, -0.5))
        panel.grid(axis="y", visible=False)
    headline = _get_headline(panels[0][1])
    for label in axes[0].get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == headline else "normal")
    return export_figure("audit_auc", figure, caption)


def _list_areas(audit: Audit) -> pd.DataFrame:
    """Return the AUCs of attacks on all records."""
    rows = audit.findings
    whole = (rows["metric"] == "auc") & (rows["group"] == "all") & (rows["client"] == -1)
    return rows[whole & rows["value"].notna()]


def _draw_interval(panel: Axes, row: int, finding: pd.DataFrame, colour: str) -> None:
    """Draw a finding as a dot with its interval, grey and hollow if it should not be read."""
    value, low, high = (float(finding[name].iloc[0]) for name in ("value", "low", "high"))
    valid = bool(finding["valid"].iloc[0])
    colour = colour if valid else GREY
    panel.plot([low, high], [row, row], color=colour, lw=1.6, solid_capstyle="butt")
    panel.plot([value], [row], "o", color=colour, mfc=colour if valid else "white")


@rc_context(STYLE)
def _draw_curves(panels: Panels) -> Drawing:
    """Draw the ROC curves of a few attacks with bands, on logarithmic axes."""
    caption = (
        "ROC curves on the audited records of the first audited seed, with logarithmic axes and "
        "95 % Clopper-Pearson bands of the true positive rate. Dashed: chance level. Grey: false "
        "positive rates below 3 / non-members, which should not be read."
    )
    titles, labels = [title for title, _ in panels], ("false positive rate", "true positive rate")
    figure, axes = create_panels(titles, 3, 3.0, labels, sharex=True, sharey=True)
    edge = 0.7 / max(1, max(_count_non_members(audit) for _, audit in panels))
    for panel, (_, audit) in zip(axes, panels, strict=True):
        draw_roc_axes(panel, edge, min(1.0, 3 / _count_non_members(audit)))
        for attack, colour in zip(CURVES, COLOURS, strict=False):
            _draw_curve(panel, audit, attack, colour, edge)
    axes[0].legend(loc="lower right")
    return export_figure("audit_roc", figure, caption)


def _count_non_members(audit: Audit) -> int:
    records = audit.records
    first = records[records["attack"] == records["attack"].iloc[0]]
    return int((~first["member"]).sum())


def _draw_curve(panel: Axes, audit: Audit, attack: str, colour: str, edge: float) -> None:
    records = audit.records[(audit.records["attack"] == attack) & audit.records["score"].notna()]
    if records.empty:
        return
    curve = RocCurve.from_scores(records["score"].to_numpy(float), records["member"].to_numpy(bool))
    x, positives, count = curve.false_positive_rates, curve.true_positives, curve.num_members
    low = np.where(positives > 0, betaincinv(positives, count - positives + 1, 0.025), 0.0)
    upper = betaincinv(positives + 1, np.maximum(count - positives, 1), 0.975)
    band = np.maximum(low, edge), np.maximum(np.where(positives < count, upper, 1.0), edge)
    panel.fill_between(x, *band, step="post", color=colour, alpha=0.15, linewidth=0)
    y = np.maximum(curve.true_positive_rates, edge)
    panel.plot(x, y, color=colour, drawstyle="steps-post", linewidth=1.4, label=attack)


@rc_context(STYLE)
def _draw_comparisons(panels: Panels) -> Drawing | None:
    """Draw the AUCs of protected and clean records, and those of confounded comparisons."""
    protecting = [p for p in panels if len(p[1].rows(_get_headline(p[1]), "auc", "protected"))]
    if not protecting:
        return None
    caption = (
        "AUC of the headline attack with 95 % DeLong intervals, first audited seed. Blue and "
        "green: members against matched non-members, which measures leakage. Grey: protected "
        "against clean non-members, which measures the shift by noise. Orange confounds the two."
    )
    titles = [title for title, _ in protecting]
    figure, axes = create_panels(titles, 2, 1.5, ("AUC", ""), sharex=True, sharey=True)
    for panel, (_, audit) in zip(axes, protecting, strict=True):
        panel.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
        for row, (_, metric, group, colour) in enumerate(COMPARISONS):
            finding = audit.rows(_get_headline(audit), metric, group)
            if len(finding):
                _draw_interval(panel, row, finding, colour)
        panel.set(yticks=range(len(COMPARISONS)), yticklabels=[name for name, *_ in COMPARISONS])
        panel.set(ylim=(len(COMPARISONS) - 0.5, -0.5))
        panel.grid(axis="y", visible=False)
    return export_figure("audit_two_by_two", figure, caption)


def _get_headline(audit: Audit) -> str:
    name: str = audit.summary["headline"]
    return name


@rc_context(STYLE)
def _draw_clients(grid: Grid, audited: Sequence[Setting]) -> Drawing | None:
    """Draw the leakage of each client against its accuracy."""
    chosen = [s for s in audited if not s.first_seed_client_rows("client_accuracy").empty]
    if not chosen:
        return None
    caption = (
        "AUC per client under the headline attack, with 95 % DeLong intervals, against the "
        "client's accuracy, first audited seed. Few records alone spread the AUC. "
        "Hollow: should not be read, for the reason in audit.parquet. Clients for which either "
        "number is not defined are not drawn."
    )
    titles = [setting.label or grid.name for setting in chosen]
    labels = ("accuracy of the client, %", "AUC")
    figure, axes = create_panels(titles, 3, 2.4, labels, sharex=True, sharey=True)
    for panel, setting in zip(axes, chosen, strict=True):
        panel.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        accuracy = setting.first_seed_client_rows("client_accuracy").set_index("client")
        findings = _read_audits(setting)[0]
        for client, client_row in accuracy.iterrows():
            rows = findings.rows(_get_headline(findings), "auc", "all", int(str(client)))
            accurate = float(client_row["value"])
            if rows["value"].isna().all() or np.isnan(accurate):  # true as well without a row
                continue
            value, low, high = (float(rows[name].iloc[0]) for name in ("value", "low", "high"))
            colours = {"protected": COLOURS[0], "clean": COLOURS[2]}
            colour = colours.get(str(client_row["group"]), INK)
            x, face = 100 * accurate, colour if rows["valid"].iloc[0] else "white"
            panel.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.5)
            panel.plot([x], [value], "o", color=colour, markerfacecolor=face)
    return export_figure("audit_clients", figure, caption)
