"""Audits: leakage per attack, per client, and of protected and clean records."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import betaincinv

from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.report.components import Cell, Drawing, Section, Table, build_table
from fl_sim.report.formats import (
    AREA,
    PERCENT,
    RATE,
    RATIO,
    UNDEFINED,
    NumberFormat,
    format_interval,
    format_over_seeds,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.panels import create_panels, label_outer_axes
from fl_sim.report.style import COLOURS, GREY, INK, PALE, STYLE, export_figure
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
        "Runs audited by `fl-sim audit`. Reference models are heads, trained centrally on random "
        "halves of the pool, or replays of the run from other seeds. Members and non-members are "
        "matched by client, class and protected status; a number is grey where labels alone "
        "distinguish them.",
        "PPV is the probability that a record called a member is one. PPV and epsilon use a "
        "threshold set on reference models at a false positive rate of 1 %. Epsilon, at least: "
        "training with a smaller epsilon would not allow this result, at 95 % confidence.",
    )
    panels = [(setting.label or grid.name, _read_audits(setting)[0]) for setting in audited][
        :MAX_PANELS
    ]
    drawings = (
        _draw_curves(panels),
        _draw_comparisons(panels),
        _draw_clients(grid, audited[:MAX_PANELS]),
    )
    figures = [drawing for drawing in drawings if drawing is not None]
    tables = (_build_table(grid, audited), *_build_source_tables(grid, audited))
    return Section("audit", "Audited leakage", paragraphs, (*tables, *figures))


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
        for attack in audits[0].findings.query("metric == 'auc'")["attack"].unique():
            counts = {int(a.summary["num_references"]) for a in audits}
            uses = bool((audits[0].findings.query("attack == @attack")["num_references"] > 0).any())
            kind = audits[0].summary["references"]
            references = f"{'/'.join(map(str, sorted(counts)))} {kind}" if uses else "none"
            headline = Cell(
                str(attack), extra="headline" * (attack == audits[0].summary["headline"])
            )
            cells = [
                _build_cell(audits, str(attack), metric, group, form)
                for _, metric, group, form in COLUMNS
            ]
            rows.append([*map(Cell, grid.describe(setting)), headline, Cell(references), *cells])
    columns = ["references", *(name for name, *_ in COLUMNS)]
    return build_table("Membership attacks on audited runs", [*grid.heads, "attack"], columns, rows)


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
        return Cell(UNDEFINED, notes[0] if notes else "")
    bounds = format_interval(float(rows["low"].min()), float(rows["high"].max()), form)
    doubts = [str(n) for n, valid in zip(rows["note"], rows["valid"], strict=True) if not valid]
    values = [float(value) for value in rows["value"]]
    return Cell(format_over_seeds(values, form), doubts[0] if doubts else "", bounds)


Panels = list[tuple[str, Audit]]


def _draw_curves(panels: Panels) -> Drawing | None:
    """Draw the ROC curves of a few attacks with bands, on logarithmic axes."""
    caption = (
        "ROC curves on the audited records of the first audited seed, with logarithmic axes and "
        "95 % Clopper-Pearson bands of the true positive rate. Dashed: chance level. Grey: false "
        "positive rates below 3 / non-members, which should not be read."
    )
    return export_figure("audit_roc", _create_curve_figure(panels), caption, caption)


@rc_context(STYLE)
def _create_curve_figure(panels: Panels) -> Figure:
    columns = min(3, len(panels))
    figure, axes = create_panels([t for t, _ in panels], columns, 3.0, sharex=True, sharey=True)
    edge = 0.7 / max(1, max(_count_non_members(audit) for _, audit in panels))
    for panel, (_, audit) in zip(axes, panels, strict=True):
        panel.axvspan(
            edge, min(1.0, 3 / _count_non_members(audit)), color=PALE, alpha=0.6, linewidth=0
        )
        panel.plot([edge, 1], [edge, 1], color=GREY, linestyle="--", linewidth=1)
        for attack, colour in zip(CURVES, COLOURS, strict=False):
            _draw_curve(panel, audit, attack, colour, edge)
        panel.set(xscale="log", yscale="log", xlim=(edge, 1), ylim=(edge, 1))
    label_outer_axes(axes, columns, "false positive rate", "true positive rate")
    axes[0].legend(loc="lower right")
    return figure


def _count_non_members(audit: Audit) -> int:
    records = audit.records
    first = records[records["attack"] == records["attack"].iloc[0]]
    return int((~first["member"]).sum())


def _draw_curve(panel: Axes, audit: Audit, attack: str, colour: str, edge: float) -> None:
    records = audit.records[(audit.records["attack"] == attack) & audit.records["score"].notna()]
    if records.empty:
        return
    false_positives, true_positives, count = _compute_roc(
        records["score"].to_numpy(float), records["member"].to_numpy(bool)
    )
    low = np.where(
        true_positives > 0, betaincinv(true_positives, count - true_positives + 1, 0.025), 0.0
    )
    high = np.where(
        true_positives < count,
        betaincinv(true_positives + 1, np.maximum(count - true_positives, 1), 0.975),
        1.0,
    )
    band = np.maximum(low, edge), np.maximum(high, edge)
    panel.fill_between(false_positives, *band, step="post", color=colour, alpha=0.15, linewidth=0)
    rate = np.maximum(true_positives / count, edge)
    panel.plot(
        false_positives, rate, color=colour, drawstyle="steps-post", linewidth=1.4, label=attack
    )


def _compute_roc(
    scores: Float[np.ndarray, " n"], members: "np.ndarray[Any, np.dtype[np.bool_]]"
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"], int]:
    """Return FPR and true positives per threshold, and the number of members."""
    member_scores, non_member_scores = np.sort(scores[members]), np.sort(scores[~members])
    thresholds = np.unique(np.append(scores, np.inf))[::-1]
    true_positives = len(member_scores) - np.searchsorted(member_scores, thresholds)
    false_positives = 1 - np.searchsorted(non_member_scores, thresholds) / max(
        1, len(non_member_scores)
    )
    return false_positives, true_positives.astype(float), len(member_scores)


def _draw_comparisons(panels: Panels) -> Drawing | None:
    """Draw the AUCs of protected and clean records, and those of confounded comparisons."""
    protecting = [
        (t, a) for t, a in panels if not a.rows(_get_headline(a), "auc", "protected").empty
    ]
    if not protecting:
        return None
    caption = (
        "AUC of the headline attack with 95 % DeLong intervals, first audited seed. Blue and "
        "green: members against matched non-members, which measures leakage. Grey: protected "
        "against clean non-members, which measures the shift by noise. Orange confounds the two."
    )
    return export_figure(
        "audit_two_by_two", _create_comparison_figure(protecting), caption, caption
    )


@rc_context(STYLE)
def _create_comparison_figure(panels: Panels) -> Figure:
    columns = min(2, len(panels))
    figure, axes = create_panels([t for t, _ in panels], columns, 1.5, sharex=True, sharey=True)
    for panel, (_, audit) in zip(axes, panels, strict=True):
        panel.axvline(0.5, color=GREY, linestyle="--", linewidth=1)
        for row, (_, metric, group, colour) in enumerate(COMPARISONS):
            _draw_interval(panel, audit.rows(_get_headline(audit), metric, group), row, colour)
        panel.set(yticks=range(len(COMPARISONS)), yticklabels=[name for name, *_ in COMPARISONS])
        panel.set(ylim=(len(COMPARISONS) - 0.5, -0.5))
        panel.grid(axis="y", visible=False)
    label_outer_axes(axes, columns, "AUC", "")
    return figure


def _draw_interval(panel: Axes, rows: pd.DataFrame, place: int, colour: str) -> None:
    if rows.empty:
        return
    value, low, high = (float(rows[name].iloc[0]) for name in ("value", "low", "high"))
    panel.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    panel.plot([value], [place], "o", color=colour)


def _get_headline(audit: Audit) -> str:
    name: str = audit.summary["headline"]
    return name


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
    return export_figure("audit_clients", _create_client_figure(titles, chosen), caption, caption)


@rc_context(STYLE)
def _create_client_figure(titles: Sequence[str], chosen: Sequence[Setting]) -> Figure:
    columns = min(3, len(chosen))
    figure, axes = create_panels(titles, columns, 2.4, sharex=True, sharey=True)
    for panel, setting in zip(axes, chosen, strict=True):
        panel.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        accuracy = setting.first_seed_client_rows("client_accuracy").set_index("client")
        findings = _read_audits(setting)[0]
        for client, client_row in accuracy.iterrows():
            rows = findings.rows(_get_headline(findings), "auc", "all", int(str(client)))
            if (
                rows.empty
                or bool(rows["value"].isna().all())
                or np.isnan(float(client_row["value"]))
            ):
                continue
            value, low, high = (float(rows[name].iloc[0]) for name in ("value", "low", "high"))
            colour = {"protected": COLOURS[0], "clean": COLOURS[2]}.get(
                str(client_row["group"]), INK
            )
            x, face = 100 * float(client_row["value"]), colour if rows["valid"].iloc[0] else "white"
            panel.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.5)
            panel.plot([x], [value], "o", color=colour, markerfacecolor=face)
    label_outer_axes(axes, columns, "accuracy of the client, %", "AUC")
    return figure
