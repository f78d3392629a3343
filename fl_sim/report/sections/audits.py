"""Audits: who leaks what, by attack, by client, and by protection."""

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
CURVES = ("loss", "RMIA online", "LiRA online")  # attacks with a curve of their own
COLUMNS: tuple[tuple[str, str, str, NumberFormat], ...] = (
    ("AUC", "auc", "all", AREA),
    ("AUC, protected records", "auc", "protected", AREA),
    ("AUC, clean records", "auc", "clean", AREA),
    ("TPR at 1 % FPR, %", "tpr_at_0.01", "all", RATE),
    ("PPV at prior 10 %, %", "ppv_at_fixed_0.01_prior_0.1", "all", RATE),
    ("epsilon, at least", "epsilon_at_fixed_0.01", "all", RATIO),
)
SOURCES = (
    ("members found, %", "source_accuracy"),
    ("held-out records found, %", "source_held_out_accuracy"),
    ("excess: memorised, points", "source_excess"),
)
COMPARISONS = (
    ("protected members / protected outsiders", "auc", "protected", COLOURS[0]),
    ("clean members / clean outsiders", "auc", "clean", COLOURS[2]),
    ("protected outsiders / clean outsiders: shift alone", "shift_only_auc", "all", GREY),
    ("protected members / clean outsiders: mixed up", "naive_protected_auc", "all", COLOURS[1]),
)


class Audit(NamedTuple):
    """The audit of one run: its findings, the scores of each record, and its summary."""

    findings: pd.DataFrame
    records: pd.DataFrame
    summary: dict[str, Any]

    def rows(self, attack: str, metric: str, group: str, client: int = -1) -> pd.DataFrame:
        """Return the row of a finding, or none."""
        rows = self.findings
        chosen = (rows["attack"] == attack) & (rows["metric"] == metric)
        return rows[chosen & (rows["group"] == group) & (rows["client"] == client)]


def build_audits(grid: Grid) -> Section | None:
    """Return what audits found, where runs have been audited."""
    audited = [setting for setting in grid.finished if _read_audits(setting)]
    if not audited:
        return None
    about = (
        "Runs that `fl-sim audit` looked at, with reference models where the tier has any: heads "
        "are trained centrally on random halves of the pool, replays are the run from other "
        "seeds. Members and outsiders are matched by client, class and protected status; where "
        "labels alone tell them apart, a number is grey and says shift.",
        "PPV is the chance that an accused record is a member; it and epsilon use a threshold "
        "that was set on reference models, to 1 % false alarms. Epsilon, at least: no training "
        "with a smaller one would let the attack do this well, at 95 % confidence.",
    )
    panels = [(setting.label or grid.name, _read_audits(setting)[0]) for setting in audited][
        :MAX_PANELS
    ]
    drawings = (
        _draw_curves(panels),
        _draw_comparisons(panels),
        _draw_clients(grid, audited[:MAX_PANELS]),
    )
    there = [drawing for drawing in drawings if drawing is not None]
    tables = (_build_table(grid, audited), *_build_source_tables(grid, audited))
    return Section("audit", "Audited leakage", about, (*tables, *there))


def _read_audits(setting: Setting) -> list[Audit]:
    """Return the audits of a setting, in the order of its seeds."""
    there = [folder for folder in setting.folders.values() if (folder / AUDIT).exists()]
    found = [_read_audit(folder, (folder / AUDIT).stat().st_mtime_ns) for folder in there]
    return [audit for audit in found if audit is not None]


@lru_cache(maxsize=256)
def _read_audit(folder: Path, written: int) -> Audit | None:
    """Return the audit that was written at that time; the page asks for it again and again.

    One whose files are damaged is left out; whoever loads the results says so.
    """
    try:
        found = read_audit(folder)
    except DamagedFileError:
        return None
    return None if found is None else Audit(*found)


def _build_table(grid: Grid, audited: Sequence[Setting]) -> Table:
    rows = []
    for setting in audited:
        own = _read_audits(setting)
        for attack in own[0].findings.query("metric == 'auc'")["attack"].unique():
            counts = {int(a.summary["num_references"]) for a in own}
            uses = bool((own[0].findings.query("attack == @attack")["num_references"] > 0).any())
            kind = own[0].summary["references"]
            made = f"{'/'.join(map(str, sorted(counts)))} {kind}" if uses else "none"
            headline = Cell(str(attack), extra="headline" * (attack == own[0].summary["headline"]))
            cells = [
                _build_cell(own, str(attack), metric, group, form)
                for _, metric, group, form in COLUMNS
            ]
            rows.append([*map(Cell, grid.describe(setting)), headline, Cell(made), *cells])
    columns = ["references", *(name for name, *_ in COLUMNS)]
    return build_table("Membership attacks on audited runs", [*grid.heads, "attack"], columns, rows)


def _build_source_tables(grid: Grid, audited: Sequence[Setting]) -> list[Table]:
    """Return whose records the server can tell, where it saw single updates."""
    rows = []
    for setting in audited:
        own = _read_audits(setting)
        cells = [_build_cell(own, "source inference", m, "all", PERCENT) for _, m in SOURCES]
        if any(cell.text != UNDEFINED for cell in cells):
            rows.append([*map(Cell, grid.describe(setting)), *cells])
    caption = "Source inference: whose record is it, by the last updates that the server saw?"
    return [build_table(caption, grid.heads, [name for name, _ in SOURCES], rows)] if rows else []


def _build_cell(
    own: Sequence[Audit], attack: str, metric: str, group: str, form: NumberFormat
) -> Cell:
    """Return a number over the audited seeds, greyed out where it should not be read."""
    rows = pd.concat([audit.rows(attack, metric, group) for audit in own])
    if rows.empty or rows["value"].isna().all():
        notes = [str(note) for note in rows["note"] if note]
        return Cell(UNDEFINED, notes[0] if notes else "")
    bounds = format_interval(float(rows["low"].min()), float(rows["high"].max()), form)
    doubts = [str(n) for n, valid in zip(rows["note"], rows["valid"], strict=True) if not valid]
    values = [float(value) for value in rows["value"]]
    return Cell(format_over_seeds(values, form), doubts[0] if doubts else "", bounds)


Panels = list[tuple[str, Audit]]


def _draw_curves(panels: Panels) -> Drawing | None:
    """Draw hit against false alarm rate of a few attacks, with bands, on log axes."""
    about = (
        "Hit rate against false alarm rate on the audited records of the first audited seed, both "
        "axes logarithmic, with 95 % Clopper-Pearson bands of the hit rate. Dashed: guessing. "
        "Grey: below 3 / outsiders, where a rate should not be read."
    )
    return export_figure("audit_roc", _create_curve_figure(panels), about, about)


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
    label_outer_axes(axes, columns, "false alarm rate", "hit rate")
    axes[0].legend(loc="lower right")
    return figure


def _count_non_members(audit: Audit) -> int:
    records = audit.records
    first = records[records["attack"] == records["attack"].iloc[0]]
    return int((~first["member"]).sum())


def _draw_curve(panel: Axes, audit: Audit, attack: str, colour: str, edge: float) -> None:
    own = audit.records[(audit.records["attack"] == attack) & audit.records["score"].notna()]
    if own.empty:
        return
    alarms, hits, count = _compute_roc(own["score"].to_numpy(float), own["member"].to_numpy(bool))
    low = np.where(hits > 0, betaincinv(hits, count - hits + 1, 0.025), 0.0)
    high = np.where(hits < count, betaincinv(hits + 1, np.maximum(count - hits, 1), 0.975), 1.0)
    band = np.maximum(low, edge), np.maximum(high, edge)
    panel.fill_between(alarms, *band, step="post", color=colour, alpha=0.15, linewidth=0)
    rate = np.maximum(hits / count, edge)
    panel.plot(alarms, rate, color=colour, drawstyle="steps-post", linewidth=1.4, label=attack)


def _compute_roc(
    scores: Float[np.ndarray, " n"], members: "np.ndarray[Any, np.dtype[np.bool_]]"
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"], int]:
    """Return false alarm rates, numbers of hits at every threshold, and the number of members."""
    inside, outside = np.sort(scores[members]), np.sort(scores[~members])
    thresholds = np.unique(np.append(scores, np.inf))[::-1]
    hits = len(inside) - np.searchsorted(inside, thresholds)
    alarms = 1 - np.searchsorted(outside, thresholds) / max(1, len(outside))
    return alarms, hits.astype(float), len(inside)


def _draw_comparisons(panels: Panels) -> Drawing | None:
    """Draw the areas of protected and clean records, and what a careless comparison gives."""
    protecting = [
        (t, a) for t, a in panels if not a.rows(_get_headline(a), "auc", "protected").empty
    ]
    if not protecting:
        return None
    about = (
        "AUC of the headline attack with 95 % DeLong intervals, first audited seed. Blue and "
        "green: does it tell members from matched outsiders? Grey: it tells protected from clean "
        "records nobody trained on, so that is shift and no leakage. Orange mixes the two up."
    )
    return export_figure("audit_two_by_two", _create_comparison_figure(protecting), about, about)


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
    """Draw each client's leakage against its accuracy."""
    chosen = [s for s in audited if not s.first_seed_client_rows("client_accuracy").empty]
    if not chosen:
        return None
    about = (
        "Each client's AUC under the headline attack, with its 95 % DeLong interval, against the "
        "accuracy of the global model for it; first audited seed. Small pools alone spread the "
        "AUC. Hollow: should not be read, for the reason in audit.parquet. Clients of which either "
        "number is not defined are not drawn."
    )
    titles = [setting.label or grid.name for setting in chosen]
    return export_figure("audit_clients", _create_client_figure(titles, chosen), about, about)


@rc_context(STYLE)
def _create_client_figure(titles: Sequence[str], chosen: Sequence[Setting]) -> Figure:
    columns = min(3, len(chosen))
    figure, axes = create_panels(titles, columns, 2.4, sharex=True, sharey=True)
    for panel, setting in zip(axes, chosen, strict=True):
        panel.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
        accuracy = setting.first_seed_client_rows("client_accuracy").set_index("client")
        findings = _read_audits(setting)[0]
        for client, own in accuracy.iterrows():
            rows = findings.rows(_get_headline(findings), "auc", "all", int(str(client)))
            if rows.empty or bool(rows["value"].isna().all()) or np.isnan(float(own["value"])):
                continue
            value, low, high = (float(rows[name].iloc[0]) for name in ("value", "low", "high"))
            colour = {"protected": COLOURS[0], "clean": COLOURS[2]}.get(str(own["group"]), INK)
            x, face = 100 * float(own["value"]), colour if rows["valid"].iloc[0] else "white"
            panel.plot([x, x], [low, high], color=colour, linewidth=1, alpha=0.5)
            panel.plot([x], [value], "o", color=colour, markerfacecolor=face)
    label_outer_axes(axes, columns, "accuracy of the client, %", "AUC")
    return figure
