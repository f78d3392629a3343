"""Tables in the terminal, and the columns of headline numbers that the page shows as well."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pandas as pd
from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fl_sim.report.formats import (
    AREA,
    COUNT,
    MEGABYTES,
    PERCENT,
    POINTS,
    RATE,
    RATIO,
    SECONDS,
    UNDEFINED,
    NumberFormat,
    format_count,
    format_interval,
    format_number,
    format_over_seeds,
    mean,
)
from fl_sim.report.grid import Grid, Setting, build_grid
from fl_sim.results import Results


class Column(NamedTuple):
    """A headline number: its name, its unit, its text for a setting, and what it means."""

    name: str
    unit: str
    text: Callable[[Setting], str]
    meaning: str = ""


def _format_column(name: str, form: NumberFormat) -> Callable[[Setting], str]:
    return lambda setting: format_over_seeds(setting.summary_values(name), form)


def _format_cost(setting: Setting) -> str:
    upload = format_number(mean(setting.summary_values("cost.bytes_up")), MEGABYTES)
    return f"{upload}\n{format_over_seeds(setting.summary_values('cost.cpu_seconds'), SECONDS)}"


# A_mix is the final accuracy of the run itself, so there is no further column for that.
A_MIX = Column(
    "A_mix", "%", _format_column("accuracy", PERCENT), "the run itself after its last round"
)
HEADLINES = (
    Column("A_all", "%", _format_column("protection.a_all", PERCENT), "nobody protects"),
    Column("A_clean", "%", _format_column("protection.a_clean", PERCENT), "the clean part alone"),
    A_MIX,
    Column("best", "%", _format_column("best_accuracy", PERCENT), "of any round"),
    Column("gap", "points", _format_column("protection.utility_gap", POINTS), "A_clean - A_mix"),
    Column(
        "ratio",
        "",
        _format_column("protection.extraction_ratio", RATIO),
        "(A_mix - A_clean) / (A_all - A_clean)",
    ),
    Column("AUC", "", _format_column("leakage.auc", AREA), "membership attack, chance is 0.5"),
    Column("worst client", "%", _format_column("fairness.worst_client", PERCENT), "its accuracy"),
)
COST = Column("MB up", "CPU s", _format_cost)
REASONS = (  # for a number that is not defined: the column, and the metric that says why
    ("A_mix", "accuracy"),
    ("AUC", "mia_margin_auc"),
    ("worst client", "fairness_worst_client"),
    ("CPU s", "cpu_seconds"),
)
LOST = Column(
    "lost",
    "",
    lambda setting: format_number(sum(setting.num_failures()), COUNT),
    "times a client did not deliver",
)
INDENT = 4
MAX_NAMED = 3  # settings in a sentence


def choose_headline_columns(grid: Grid) -> list[Column]:
    """Return the headline numbers that are defined for any setting and have something to say."""
    idle = {"best"} if not grid.has_history else set()
    idle |= {"worst client"} if not grid.has_clients else set()
    idle |= {"lost"} if not any(any(own.num_failures()) for own in grid.settings) else set()
    known = {
        c.name
        for c in (*HEADLINES, LOST)
        if c.name not in idle and any(c.text(setting) != UNDEFINED for setting in grid.finished)
    }
    return [c for c in (*HEADLINES, LOST) if c is A_MIX or c.name in known]


def explain_columns(columns: Iterable[Column]) -> str:
    """Return what the columns mean, in sentences."""
    return " ".join(f"{c.name}: {c.meaning}." for c in columns if c.meaning)


def build_summary_table(results: Results) -> Table:
    """Return the final numbers, one row a setting, averaged over seeds."""
    grid = build_grid(results)
    columns = [*choose_headline_columns(grid), COST]
    table = Table(
        title=f"{grid.name}: {describe_seeds(grid)}",
        caption=_build_caption(grid, columns),
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("settings" if grid.axes else "run", min_width=18)
    for column in columns:
        title = column.name.replace(" ", "\n") if column.name == "worst client" else column.name
        table.add_column(f"{title}\n{column.unit}", justify="right", no_wrap=True)
    for setting in grid.settings:
        table.add_row(_format_name(grid, setting), *_format_numbers(setting, columns))
    return table


def build_listing(entries: Iterable[tuple[str, ...]]) -> Table:
    """Return a list of things: name, what it is, and under it, where it comes from, and so on."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(overflow="fold")
    for name, what, *details in entries:
        table.add_row(Text(name, style="bold"))
        table.add_row(Padding(Text(what), (0, 0, 0, INDENT)))
        for detail in filter(None, details):
            table.add_row(Padding(Text(detail, style="dim"), (0, 0, 0, INDENT)))
    return table


def build_audit_table(title: str, findings: pd.DataFrame) -> Table:
    """Return the attacks on a run, one a row; what should not be read is dim."""
    made = Table(
        title=title,
        caption=Text("In brackets: 95 % intervals. Guessing: AUC 0.5, TPR 1 %.", "not italic dim"),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    made.add_column("attack")
    for column in ("AUC", "TPR at 1 % FPR, %", "epsilon\nat least"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("")
    overall = findings[(findings["group"] == "all") & (findings["client"] == -1)]
    areas = overall[overall["metric"] == "auc"]
    notes = dict(zip(areas["attack"], areas["note"], strict=True))
    for name, own in overall[overall["attack"].isin(notes)].groupby("attack", sort=False):
        cells = [
            _format_finding(own, metric, form)
            for metric, form in (
                ("auc", AREA),
                ("tpr_at_0.01", RATE),
                ("epsilon_at_fixed_0.01", RATIO),
            )
        ]
        made.add_row(str(name), *cells, Text(notes[str(name)], "yellow"))
    return made


def _format_finding(own: pd.DataFrame, metric: str, form: NumberFormat) -> Text:
    rows = own[own["metric"] == metric]
    if rows.empty:
        return Text(UNDEFINED, "dim")
    value, low, high = (float(rows[name].iloc[0]) for name in ("value", "low", "high"))
    words = f"{format_number(value, form)} {format_interval(low, high, form)}".strip()
    return Text(words, "" if bool(rows["valid"].iloc[0]) else "dim")


def describe_seeds(grid: Grid) -> str:
    """Return how many seeds there are, and what the spread is."""
    if len(grid.seeds) == 1:
        return "one seed, no spread"
    return f"mean ± sample standard deviation over {format_count(len(grid.seeds), 'seed')}"


def explain_undefined(grid: Grid) -> list[str]:
    """Return which headline numbers are not defined, of which settings, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for setting in grid.finished:
        for column, metric in REASONS:
            why = setting.undefined_reason(metric)
            if why:
                found.setdefault((column, why), []).append(setting.label or grid.name)
    return [
        f"{column} is not defined: {why} ({_join_labels(labels, len(grid.finished))})."
        for (column, why), labels in found.items()
    ]


def _join_labels(labels: Sequence[str], count: int) -> str:
    if len(labels) == count:
        return "every setting" if count > 1 else labels[0]
    shown = ", ".join(labels[:MAX_NAMED])
    return shown if len(labels) <= MAX_NAMED else f"{shown} and {len(labels) - MAX_NAMED} more"


def list_failed_runs(grid: Grid) -> list[tuple[Setting, int, str]]:
    """Return the runs that did not finish: setting, seed and error."""
    found = []
    for setting in grid.settings:
        if len(setting.finished) < len(setting.cells):
            failed = setting.cells[setting.cells["status"] != "finished"]
            pairs = zip(failed["seed"], failed["error"], strict=True)
            found += [(setting, int(seed), str(error)) for seed, error in pairs]
    return found


def _build_caption(grid: Grid, columns: Iterable[Column]) -> Text:
    several = " (n/m): defined for n of m seeds." if len(grid.seeds) > 1 else ""
    text = Text(f"{explain_columns(columns)}{several} {grid.time_note}", style="not italic dim")
    for reason in explain_undefined(grid):
        text.append(f"\n{reason}", style="yellow not dim")
    for setting, seed, error in list_failed_runs(grid):
        text.append(
            f"\nfailed: {setting.label or grid.name}, seed {seed}: {error}", style="red not dim"
        )
    return text


def _format_name(grid: Grid, setting: Setting) -> Text:
    """Return a row's name on two lines, which its numbers take anyway."""
    # a blank before the bracket lets the long name of a class break there
    return Text((setting.label or grid.name).replace(" · ", "\n", 1).replace("(", " ("))


def _format_numbers(setting: Setting, columns: Sequence[Column]) -> list[Text]:
    """Return a row's numbers, the spread under the mean."""
    missing = len(setting.cells) - len(setting.finished)
    texts = []
    for column in columns:
        words = column.text(setting) if setting.folders else UNDEFINED
        text = Text(words.replace(" ± ", "\n±").replace(" (", "\n("))
        if column is A_MIX and missing:
            text.append(f"\n{missing} failed", style="bold red")
        texts.append(text)
    return texts


def build_times_table(parts: Iterable[tuple[str, float, float]], title: str) -> Table:
    """Return where time goes: seconds by the clock and of work, by part, with their sum."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("part")
    for name in ("ms a round", "share", "working ms", "waiting ms"):
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


def build_functions_table(found: Iterable[tuple[str, float, float, float]]) -> Table:
    """Return the functions that cost most: calls, and seconds of their own and in all."""
    table = Table(
        title="functions that cost most, under Python's profiler, a round",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("function", overflow="fold")
    for name in ("calls", "own ms", "with callees ms"):
        table.add_column(name, justify="right")
    for name, calls, own, total in found:
        table.add_row(Text(name), f"{calls:.4g}", f"{1000 * own:.1f}", f"{1000 * total:.1f}")
    return table
