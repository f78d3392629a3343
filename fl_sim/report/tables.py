"""Tables for the terminal, and the headline columns, which the page shows as well."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fl_sim.report.advice import add_advice
from fl_sim.report.formats import (
    AREA,
    COUNT,
    CPU_SECONDS,
    MEGABYTES,
    PERCENT,
    POINTS,
    RATE,
    RATIO,
    UNDEFINED,
    NumberFormat,
    format_count,
    format_interval,
    format_number,
    format_over_seeds,
    mean,
)
from fl_sim.report.grid import Grid, Setting, build_grid
from fl_sim.report.quantities import describe_quantity
from fl_sim.report.skipped import list_skipped
from fl_sim.report.verdicts import LEGEND, TIE, find_ties, judge_change
from fl_sim.report.wide_table import LOOK, WideTable
from fl_sim.results import Results
from fl_sim.results.comparison import NO_DIFFERENCE


class Column(NamedTuple):
    """A headline number.

    Attributes:
        name: Heading.
        unit: Unit, or an empty string.
        values: Its numbers of a setting, one per seed.
        form: Format of a number.
        meaning: Explanation below the table.
        spreads: Whether its spread over seeds is shown beside the mean.
    """

    name: str
    unit: str
    values: Callable[[Setting], list[float]]
    form: NumberFormat
    meaning: str = ""
    spreads: bool = True

    def text(self, setting: Setting) -> str:
        """Return the mean and, if it is shown, the spread over seeds."""
        values = self.values(setting)
        shown = values if self.spreads else [mean(values)]
        return format_over_seeds(shown, self.form)

    def judge(self, setting: Setting) -> str:
        """Return `no difference` for a difference whose interval over seeds includes 0."""
        return judge_change(self.values(setting)) if self.form.signed else ""


def _make_column(
    name: str, unit: str, number: str, form: NumberFormat, meaning: str = "", spreads: bool = True
) -> Column:
    """Return a column with a number of the summary."""

    def values(setting: Setting) -> list[float]:
        return setting.summary_values(number)

    return Column(name, unit, values, form, meaning, spreads)


def _list_added(setting: Setting) -> list[float]:
    return [-gap for gap in setting.summary_values("protection.utility_gap")]


# A_mix is the final accuracy of the run itself, so there is no other column for it.
A_MIX = _make_column("A_mix", "%", "accuracy", PERCENT, "the run itself, after its last round")
HEADLINES = (
    _make_column("A_all", "%", "protection.a_all", PERCENT, "without protection"),
    _make_column("A_clean", "%", "protection.a_clean", PERCENT, "clean part alone"),
    A_MIX,
    _make_column("best", "%", "best_accuracy", PERCENT, "highest of any round"),
    Column("added", "points", _list_added, POINTS, "A_mix - A_clean, what protected images add"),
    _make_column(
        "ratio",
        "",
        "protection.extraction_ratio",
        RATIO,
        "(A_mix - A_clean) / (A_all - A_clean)",
    ),
    _make_column(
        "attack cost",
        "points",
        "attack.accuracy_lost",
        POINTS,
        "accuracy of the control in which nobody attacks, minus A_mix",
    ),
    _make_column(
        "backdoor",
        "%",
        "backdoor.success",
        PERCENT,
        "test images with its trigger that are classified as its target",
    ),
    _make_column(
        "AUC",
        "",
        "leakage.auc",
        AREA,
        "of the membership attack by margin; chance level 0.5",
    ),
    _make_column(
        "worst client",
        "%",
        "fairness.worst_client",
        PERCENT,
        "lowest accuracy of a client",
    ),
)
UP = _make_column("MB up", "", "cost.bytes_up", MEGABYTES, spreads=False)
DOWN = _make_column(
    *("MB down", "", "cost.bytes_down", MEGABYTES),
    "sent to clients; not shown where it is as MB up",
    spreads=False,
)
CPU = _make_column("CPU s", "", "cost.cpu_seconds", CPU_SECONDS)
REASONS = (  # columns, each with the metric whose note explains an undefined number
    ("A_mix", "accuracy"),
    ("AUC", "mia_margin_auc"),
    ("worst client", "fairness_worst_client"),
    ("CPU s", "cpu_seconds"),
)
LOST = Column(
    "lost",
    "",
    lambda setting: [sum(setting.num_failures())],
    COUNT,
    "number of times that a client did not deliver",
)
MARKS = {NO_DIFFERENCE: "~", TIE: "≈"}  # before a number of a terminal's table
INDENT = 4
MAX_NAMED = 3  # settings in a sentence


def choose_headline_columns(grid: Grid) -> list[Column]:
    """Return the headline columns that are informative and defined for any setting."""
    hidden = {"best"} if not grid.has_history else set()
    hidden |= {"worst client"} if not grid.has_clients else set()
    if not _differ(grid, "accuracy", "protection.a_all", "protection.a_clean"):
        hidden |= {"A_all", "A_clean", "added"}  # nothing is protected: one number three times
    hidden |= {"lost"} if not any(any(s.num_failures()) for s in grid.settings) else set()
    known = {
        c.name
        for c in (*HEADLINES, LOST)
        if c.name not in hidden and any(c.text(setting) != UNDEFINED for setting in grid.finished)
    }
    return [c for c in (*HEADLINES, LOST) if c is A_MIX or c.name in known]


def _differ(grid: Grid, name: str, *others: str) -> bool:
    """Return whether other numbers of the summary differ from the first in any finished run."""
    values = [[s.summary_values(each) for s in grid.finished] for each in (name, *others)]
    return any(str(other) != str(values[0]) for other in values[1:])


def explain_columns(columns: Iterable[Column]) -> str:
    """Return the meanings of the columns as sentences."""
    return " ".join(f"{c.name}: {c.meaning}." for c in columns if c.meaning)


def build_summary_table(results: Results) -> Table:
    """Return the final numbers averaged over seeds, one row per setting."""
    grid = build_grid(results)
    down = [DOWN] if _differ(grid, "cost.bytes_up", "cost.bytes_down") else []
    columns = [*choose_headline_columns(grid), *down, UP, CPU]
    ties = find_ties(grid, "accuracy")
    table = WideTable(
        title=f"{grid.name}: {describe_seeds(grid)}",
        caption=_build_caption(grid, columns),
        **LOOK | {"padding": 0},
    )
    table.add_column("settings" if grid.axes else "run", min_width=18)
    for column in columns:
        title = column.name.replace(" ", "\n") if column.name == "worst client" else column.name
        table.add_column(f"{title}\n{column.unit}".rstrip(), justify="right", no_wrap=True)
    for setting in grid.settings:
        numbers = _format_numbers(setting, columns, setting in ties)
        table.add_row(_format_name(grid, setting), *numbers)
    return table


def build_listing(entries: Iterable[tuple[str, ...]]) -> Table:
    """Return a list of entries: name, description, and further details below."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    for name, description, *details in entries:
        table.add_row(Text(name, style="bold"))
        table.add_row(Padding(Text(description), (0, 0, 0, INDENT)))
        for detail in filter(None, details):
            table.add_row(Padding(Text(detail, style="dim"), (0, 0, 0, INDENT)))
    return table


def build_audit_table(title: str, findings: pd.DataFrame) -> Table:
    """Return the attacks on a run, one per row, with notes below; invalid numbers are dim."""
    overall = findings[(findings["group"] == "all") & (findings["client"] == -1)]
    areas = overall[overall["metric"] == "auc"]
    metrics = (("auc", AREA), ("tpr_at_0.01", RATE), ("epsilon_at_fixed_0.01", RATIO))
    shown = overall[overall["attack"].isin(areas["attack"])]
    notes = _number_notes(shown[shown["metric"].isin([name for name, _ in metrics])])
    table = WideTable(
        title=title,
        caption=_build_audit_caption(notes),
        **LOOK,
    )
    table.add_column("attack")
    for column in ("AUC", "TPR at 1 % FPR, %", "epsilon\nat least"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, rows in shown.groupby("attack", sort=False):
        cells = [_format_finding(rows, metric, form, notes) for metric, form in metrics]
        table.add_row(str(name), *cells)
    return table


def _number_notes(findings: pd.DataFrame) -> dict[str, int]:
    """Return a number for each note of the findings, from 1 in the order of the table."""
    notes = filter(None, findings["note"].fillna("").astype(str))
    return {note: number for number, note in enumerate(dict.fromkeys(notes), 1)}


def _build_audit_caption(notes: dict[str, int]) -> Text:
    text = "In brackets: 95 % intervals. Guessing: AUC 0.5, TPR 1 %."
    caption = Text(text, "not italic dim")
    for note, number in notes.items():
        caption.append(f"\n*{number} {add_advice(note)}", "yellow not dim")
    return caption


def _format_finding(
    findings: pd.DataFrame, metric: str, form: NumberFormat, notes: dict[str, int]
) -> Text:
    """Return a number with its interval, and a star with the number of its note."""
    rows = findings[findings["metric"] == metric]
    if rows.empty:
        return Text(UNDEFINED, "dim")
    value, low, high = (float(rows[name].iloc[0]) for name in ("value", "low", "high"))
    words = f"{format_number(value, form)} {format_interval(low, high, form)}".strip()
    note = notes.get(str(rows["note"].iloc[0]))
    text = Text(words, "" if bool(rows["valid"].iloc[0]) else "dim")
    return text.append(f" *{note}", "yellow not dim") if note else text


def describe_seeds(grid: Grid) -> str:
    """Return the number of seeds and the meaning of the spread."""
    if len(grid.seeds) == 1:
        return "one seed, no spread"
    return f"mean ± sample standard deviation over {format_count(len(grid.seeds), 'seed')}"


def explain_undefined(grid: Grid) -> list[str]:
    """Return a sentence per undefined headline number and reason, with the settings."""
    labels_by_reason: dict[tuple[str, str], list[str]] = {}
    for setting in grid.finished:
        for column, metric in REASONS:
            reason = setting.undefined_reason(metric)
            if reason:
                labels_by_reason.setdefault((column, reason), []).append(setting.label or grid.name)
    return [
        f"{column} is not defined: {reason} ({_join_labels(labels, len(grid.finished))})."
        for (column, reason), labels in labels_by_reason.items()
    ]


def _join_labels(labels: Sequence[str], count: int) -> str:
    if len(labels) == count:
        return "every setting" if count > 1 else labels[0]
    shown = ", ".join(labels[:MAX_NAMED])
    return shown if len(labels) <= MAX_NAMED else f"{shown} and {len(labels) - MAX_NAMED} more"


def list_failed_runs(grid: Grid) -> list[tuple[Setting, int, str]]:
    """Return setting, seed and error of every run that did not finish."""
    runs = []
    for setting in grid.settings:
        if len(setting.finished) < len(setting.cells):
            failed = setting.cells[setting.cells["status"] != "finished"]
            pairs = zip(failed["seed"], failed["error"], strict=True)
            runs += [(setting, int(seed), str(error)) for seed, error in pairs]
    return runs


def _build_caption(grid: Grid, columns: Iterable[Column]) -> Text:
    names = ("corruption_mean_accuracy", "adversarial_accuracy", "domain_accuracy_gap")
    measured = any(s.final_values(name).values for s in grid.finished for name in names)
    several = " (n/m): defined for n of m seeds." if len(grid.seeds) > 1 else ""
    verdicts = {column.judge(s) for s in grid.finished for column in columns if s.folders}
    verdicts |= {TIE} if find_ties(grid, "accuracy") else set()
    marks = "".join(f" {MARKS[v]}: {LEGEND[v]}" for v in LEGEND if v in verdicts)
    words = f"{explain_columns(columns)}{several}{marks} {grid.time_note}"
    text = Text(words, style="not italic dim")
    if measured:
        text.append("\nAccuracy on corrupted and attacked images and by domain: see the report.")
    for reason in explain_undefined(grid):
        text.append(f"\n{reason}", style="yellow not dim")
    for line in list_skipped(grid.results.skipped, grid.seeds):
        text.append(f"\nskipped: {line}", style="yellow not dim")
    for setting, seed, error in list_failed_runs(grid):
        where = f"{setting.label or grid.name}, seed {seed}"
        text.append(f"\nfailed: {where}: {error}", style="red not dim")
    return text


def _format_name(grid: Grid, setting: Setting) -> Text:
    """Return the name of a row on two lines, as its numbers take two."""
    # a blank before the bracket lets the long name of a class break there
    return Text((setting.label or grid.name).replace(" · ", "\n", 1).replace("(", " ("))


def _format_numbers(setting: Setting, columns: Sequence[Column], is_tie: bool) -> list[Text]:
    """Return the numbers of a row, the spread below the mean, with the marks of verdicts."""
    missing = len(setting.cells) - len(setting.finished)
    texts = []
    for column in columns:
        words = column.text(setting) if setting.folders else UNDEFINED
        verdict = column.judge(setting) or (TIE if is_tie and column is A_MIX else "")
        first, *rest = words.replace(" ± ", "\n±").replace(" (", "\n(").split("\n")
        text = Text("\n".join([MARKS.get(verdict, "") + first, *rest]))
        if column is A_MIX and missing:
            text.append(f"\n{missing} failed", style="bold red")
        texts.append(text)
    return texts


def build_comparison_table(a: str, b: str, comparison: pd.DataFrame) -> Table:
    """Return the paired differences of two runs; those that are none are dim.

    Args:
        a: Name of the first.
        b: Name of the second.
        comparison: Table of `fl_sim.results.compare`.
    """
    table = Table(
        title=f"{b} against {a}",
        caption=Text("Difference: b - a, with its 95 % interval over seeds.", "not italic dim"),
        **LOOK,
    )
    table.add_column("setting", overflow="fold")
    table.add_column("quantity")
    for name in ("a", "b", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    rows: Iterable[Any] = comparison.itertuples(index=False)
    for row in rows:
        form = describe_quantity(row.quantity).form
        change = format_number(row.difference, form._replace(signed=True))
        bounds = format_interval(row.low, row.high, form)
        means = (format_number(row.a, form), format_number(row.b, form))
        style = "" if row.verdict in ("higher", "lower") else "dim"
        cells = (*means, f"{change}\n{bounds}".strip(), row.verdict)
        table.add_row(Text(row.label), Text(row.quantity), *(Text(c, style) for c in cells))
    return table


def build_times_table(parts: Iterable[tuple[str, float, float]], title: str) -> Table:
    """Return the time per part of a round and the sum.

    Args:
        parts: Name, wall-clock seconds and CPU seconds per part.
        title: Title of the table.
    """
    table = WideTable(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("part")
    for name in ("ms per round", "share", "CPU ms", "waiting ms"):
        table.add_column(name, justify="right")
    names, walls, cpus = zip(*parts, strict=True)
    for name, wall, cpu in zip(names, walls, cpus, strict=True):
        _add_times_row(table, name, wall, cpu, sum(walls))
    table.add_section()
    _add_times_row(table, "all", sum(walls), sum(cpus), sum(walls))
    return table


def _add_times_row(table: Table, name: str, wall: float, cpu: float, whole: float) -> None:
    numbers = (1000 * wall, 1000 * cpu, 1000 * max(0.0, wall - cpu))
    took, worked, waited = (f"{number:.1f}" for number in numbers)
    table.add_row(name, took, f"{wall / whole:.0%}" if whole else "", worked, waited)


def build_functions_table(functions: Iterable[tuple[str, float, float, float]]) -> Table:
    """Return the most expensive functions.

    Args:
        functions: Name, calls, own seconds and total seconds per function.
    """
    table = WideTable(
        title="most expensive functions per round, under Python's profiler",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("function", overflow="fold")
    for name in ("calls", "own ms", "total ms"):
        table.add_column(name, justify="right")
    for name, calls, own_seconds, total_seconds in functions:
        own, total = (f"{1000 * seconds:.1f}" for seconds in (own_seconds, total_seconds))
        table.add_row(Text(name), f"{calls:.4g}", own, total)
    return table
