"""Sets the tables of papers beside our numbers, and compares the orders that the papers report.

The tables are described in `reported.toml` beside the expected files. Each names the rows that a
paper reports, the orders that it claims, and the numbers of expected files that answer it. The page
and its verdicts are computed from these.
"""

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from fl_sim.core.atomic_io import write_text
from fl_sim.core.errors import RequestError, suggest
from fl_sim.report.expected_table import label_settings

FILE, NAME = "reported.toml", "measured"
ERRORS = 2.0  # standard errors of a difference from which on it counts
INTRODUCTION = """\
# Measured against reported

The tables of the papers that fl_sim builds on, beside our numbers for the same question. Ours come
from small networks and few images, so the numbers differ; the question is whether their order is
the papers'. For every order that a paper reports, such as "A < B", an arrow compares our means:

- {AGREES} they have the reported order;
- {REVERSED} they have the opposite order;
- {UNDECIDED} they are not told apart: they differ by less than two standard errors of the
  difference, taken from the spread over seeds;
- {UNMEASURED} one of them is not measured.

Numbers of papers are given where they could be read, with the place; an order without numbers is
that of the paper's text. Numbers of ours are means over seeds with their standard deviation. Shares
are in percent.

{total}
"""
FOOTER = (
    "[All experiments](experiments.md) · [reported.toml](../experiments/reported.toml), from which "
    "`make report` writes this page · [Glossary](glossary.md)"
)


class Verdict(Enum):
    """Outcome of comparing our order of two numbers with the reported one, as an arrow."""

    AGREES = "↑"
    REVERSED = "↓"
    UNDECIDED = "↔"
    UNMEASURED = "·"


class Measured(NamedTuple):
    """Mean of a number, its sample standard deviation over seeds, and the number of seeds."""

    mean: float
    spread: float
    seeds: int


@dataclass(frozen=True)
class Answer:
    """Numbers of an experiment that answer a table.

    Attributes:
        experiment: Name of the experiment.
        rows: Our settings for each row of the table, as its page labels them; or a list of these
            and the name of another number.
        number: Name of the number.
        part: Part of the experiment that they are from, such as `colour`, shown in the heading.
    """

    experiment: str
    rows: dict[str, str | list[str]]
    number: str = "accuracy"
    part: str = ""


@dataclass(frozen=True)
class ReportedTable:
    """A table of a paper.

    Attributes:
        shows: Caption, of our own wording.
        images: Images and networks of the paper.
        orders: Claims such as `A < B` about rows, or a row and a number.
        name: Number in the paper, such as `Table 2`, if known.
        reported: The paper's numbers by row.
        quoted: Place where these were read, if not in the paper.
        percent: Whether the numbers are shares, which are shown in percent.
        unmeasured: Rows without a number of the paper's or of ours.
        missing: Parts that are not measured here, and the reason.
        ours: Answers of our experiments.
    """

    shows: str
    images: str
    orders: list[str] = field(default_factory=list)
    name: str = ""
    reported: dict[str, float | int] = field(default_factory=dict)
    quoted: str = ""
    percent: bool = True
    unmeasured: list[str] = field(default_factory=list)
    missing: str = ""
    ours: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Paper:
    """A paper and its tables; without any, `note` says so."""

    title: str
    source: str
    note: str = ""
    tables: list[ReportedTable] = field(default_factory=list)


def write_page(docs: Path, folder: Path) -> str:
    """Write the page into the folder `docs`, and return its name without the suffix.

    Raises:
        RequestError: As in `render_page`.
    """
    write_text(docs / f"{NAME}.md", render_page(folder))
    return NAME


def render_page(folder: Path) -> str:
    """Return the page "Measured against reported" in Markdown.

    Args:
        folder: Of `reported.toml`, the experiments and their expected files.

    Raises:
        RequestError: If the file is wrong, or names a number that no expected file has.
    """
    contents = _read_contents(folder)
    papers = _read_papers(folder / FILE)
    sections, summary = [], ["| Paper | Shows | Measured by | Order |", "|---|---|---|---|"]
    every: Counter[Verdict] = Counter()
    for paper in papers:
        sections += [f"## {paper.title}", f"{paper.source}." + f" {paper.note}".rstrip()]
        for table in paper.tables:
            columns = [_find_values(answer, contents) for answer in table.ours]
            verdicts = [[compare(order, values) for values in columns] for order in table.orders]
            counts = Counter(verdict for row in verdicts for verdict in row)
            every += counts
            summary.append(_summarise(paper, table, counts))
            sections += _render_table(table, columns, verdicts, contents)
    tables = [table for paper in papers for table in paper.tables]
    names = {verdict.name: verdict.value for verdict in Verdict}
    total = INTRODUCTION.format(**names, total=_count(tables, every))
    return "\n\n".join([total.strip(), "\n".join(summary), *sections, FOOTER]) + "\n"


def compare(order: str, values: Mapping[str, Measured]) -> Verdict:
    """Return whether our numbers have a claimed order.

    Args:
        order: Claim `A < B`, where each is a row or a number.
        values: Our numbers by row.

    >>> ours = {"SEM": Measured(0.5, 0.02, 3), "REM": Measured(0.6, 0.02, 3)}
    >>> [compare(order, ours).value for order in ("SEM < REM", "REM < SEM", "0.49 < SEM")]
    ['↑', '↓', '↔']
    """
    low, high = (_find_side(side, values) for side in split_claim(order))
    if low is None or high is None:
        return Verdict.UNMEASURED
    if min(low.seeds, high.seeds) < 2:
        return Verdict.UNDECIDED
    error = math.sqrt(low.spread**2 / low.seeds + high.spread**2 / high.seeds)
    difference = high.mean - low.mean
    if abs(difference) <= ERRORS * error:
        return Verdict.UNDECIDED
    return Verdict.AGREES if difference > 0 else Verdict.REVERSED


def split_claim(order: str) -> tuple[str, str]:
    """Return the two sides of a claim.

    Raises:
        RequestError: If it is not of the form `A < B`.
    """
    left, _, right = order.partition(" < ")
    if not (left and right):
        raise RequestError(f"{FILE}: expected an order such as 'A < B'; got {order!r}")
    return left, right


def _find_side(side: str, values: Mapping[str, Measured]) -> Measured | None:
    """Return our number for a row, a constant as a number without spread, or None."""
    if side in values:
        return values[side]
    return None if (number := _parse_number(side)) is None else Measured(number, 0.0, 10**9)


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_papers(path: Path) -> list[Paper]:
    """Return the papers of a file, with every field and row name checked."""
    try:
        papers = [_build_paper(**entry) for entry in tomllib.loads(path.read_text())["papers"]]
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise RequestError(f"{path}: {error}") from None
    for table in (table for paper in papers for table in paper.tables):
        if table.ours:
            _check_orders(table)
        elif not table.missing:
            raise RequestError(f"{path}: {table.shows!r} needs `ours`, or a reason in `missing`")
    return papers


def _check_orders(table: ReportedTable) -> None:
    """Refuse an order that names no row."""
    rows = _list_rows(table)
    for order in table.orders:
        for side in split_claim(order):
            if side not in rows and _parse_number(side) is None:
                raise RequestError(f"{FILE}: {order!r} names {side!r}{suggest(side, rows)}")


def _build_paper(tables: Iterable[dict[str, Any]] = (), **fields: str) -> Paper:
    built = [
        ReportedTable(**entry | {"ours": [Answer(**answer) for answer in entry.get("ours", [])]})
        for entry in tables
    ]
    return Paper(**fields, tables=built)


def _list_rows(table: ReportedTable) -> list[str]:
    """Return the rows of a table, those of the paper first."""
    measured = [row for answer in table.ours for row in answer.rows]
    return list(dict.fromkeys([*table.reported, *measured, *table.unmeasured]))


def _read_contents(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the expected files of a folder by the names of their experiments."""
    suffix = ".expected.json"
    paths = folder.glob(f"*{suffix}")
    return {path.name.removesuffix(suffix): json.loads(path.read_text()) for path in paths}


def _find_values(answer: Answer, contents: Mapping[str, Mapping[str, Any]]) -> dict[str, Measured]:
    """Return our number for each row that an experiment answers.

    Raises:
        RequestError: If there is no such experiment, setting or number.
    """
    if answer.experiment not in contents:
        raise RequestError(f"{FILE}: there is no {answer.experiment}.expected.json")
    content = contents[answer.experiment]
    entries = label_settings(content["numbers"])
    known = {(entry["settings"], entry["number"]): entry for entry in entries}
    values = {}
    for row, place in answer.rows.items():
        settings, number = (place, answer.number) if isinstance(place, str) else place
        if (settings, number) not in known:
            hint = suggest(settings, {pair[0] for pair in known})
            raise RequestError(f"{FILE}: {answer.experiment} has no {number} at {settings!r}{hint}")
        entry = known[settings, number]
        seeds = entry.get("seeds", len(content["seeds"]))
        values[row] = Measured(entry["mean"], entry["spread"], seeds)
    return values


def _render_table(
    table: ReportedTable,
    columns: list[dict[str, Measured]],
    verdicts: list[list[Verdict]],
    contents: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return the paragraphs of a table: caption, numbers, orders, and the parts that lack."""
    parts = [f"### {_name(table)}", f"Paper: {table.images}."]
    if table.quoted:
        parts[-1] += f" Numbers: {table.quoted}."
    links = [f"[{a.experiment}](results/{a.experiment}.md)" for a in table.ours]
    if links:
        images = [contents[answer.experiment]["images"] for answer in table.ours]
        pairs = dict(zip(links, images, strict=True))
        parts.append("Ours: " + "; ".join(f"{link}: {text}" for link, text in pairs.items()) + ".")
        headings = [f"{link} {a.part}".rstrip() for link, a in zip(links, table.ours, strict=True)]
        rows = [
            [row, _show(table.reported.get(row)), *(_format(c.get(row), table) for c in columns)]
            for row in _list_rows(table)
        ]
        parts.append(_join_rows(["", "Reported", *headings], rows))
        pairs_of = zip(table.orders, verdicts, strict=True)
        orders = [[order, *(verdict.value for verdict in row)] for order, row in pairs_of]
        parts.append(_join_rows(["Order reported", *headings], orders))
    else:
        claims = [[row, _show(value)] for row, value in table.reported.items()]
        parts += [_join_rows(["", "Reported"], claims)] if claims else []
        parts += [f"Order reported: {'; '.join(table.orders)}."] if table.orders else []
    parts += [f"Not measured here: {table.missing}"] if table.missing else []
    return parts


def _join_rows(heading: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heading, *rows)]
    lines.insert(1, "|" + "---|" * len(heading))
    return "\n".join(lines)


def _name(table: ReportedTable) -> str:
    return (
        f"{table.name}: {table.shows}" if table.name else table.shows[:1].upper() + table.shows[1:]
    )


def _show(value: float | int | None) -> str:
    return "" if value is None else f"{value:g}"


def _format(value: Measured | None, table: ReportedTable) -> str:
    if value is None:
        return Verdict.UNMEASURED.value
    if table.percent:
        return f"{100 * value.mean:.1f} ± {100 * value.spread:.1f}"
    return f"{value.mean:.3g} ± {value.spread:.2g}"


def _summarise(paper: Paper, table: ReportedTable, counts: Counter[Verdict]) -> str:
    """Return the line of a table in the summary."""
    anchor = re.sub(r"[^\w\- ]", "", _name(table).lower()).strip().replace(" ", "-")
    experiments = dict.fromkeys(answer.experiment for answer in table.ours)
    order = " ".join(f"{v.value} {counts[v]}" for v in Verdict if counts[v])
    cells = [
        paper.title.partition(":")[0],
        f"[{_name(table)}](#{anchor})",
        ", ".join(experiments) or "not measured",
        order or Verdict.UNMEASURED.value,
    ]
    return f"| {' | '.join(cells)} |"


def _count(tables: list[ReportedTable], every: Counter[Verdict]) -> str:
    """Return the numbers of tables that are measured, and of orders that agree, in a sentence."""
    answered = sum(bool(table.ours) for table in tables)
    tested = sum(every.values()) - every[Verdict.UNMEASURED]
    return (
        f"Of {len(tables)} tables or parts of one, {answered} are measured here, some in part. Of "
        f"{tested} orders that were compared, {every[Verdict.AGREES]} agree, "
        f"{every[Verdict.REVERSED]} are reversed, and {every[Verdict.UNDECIDED]} are not told "
        "apart."
    )
