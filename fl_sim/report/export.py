"""Files of a page's tables, as CSV and LaTeX, and of its figures, as PDF and SVG with text."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fl_sim.core.atomic_io import write_bytes
from fl_sim.core.errors import RequestError
from fl_sim.report.components import Cell, Drawing, Section, Table
from fl_sim.report.formats import UNDEFINED
from fl_sim.report.verdicts import CHANCE_LEVEL, TIE
from fl_sim.results.comparison import NO_DIFFERENCE

FOLDER = "export"  # beside the page
SUFFIXES = {Table: {"CSV": ".csv", "LaTeX": ".tex"}, Drawing: {"PDF": ".pdf", "SVG": ".svg"}}
MAX_NAME = 60  # characters of a file's name
WIDE = 40  # characters of a cell whose column breaks lines in LaTeX
NUMBER = r"[+-]?(?:\d[\d,]*)(?:\.\d+)?(?:e[+-]?\d+)?"
VALUE = re.compile(rf"({NUMBER})(?: ± ({NUMBER}))?(?: \((\d+/\d+)\))?")
INTERVAL = re.compile(rf"\[({NUMBER}), ({NUMBER})\]")
VERDICTS = {  # mark in LaTeX, and words
    CHANCE_LEVEL: ("c", "no different from chance level"),
    NO_DIFFERENCE: ("n", "no different from 0"),
    TIE: ("h", "no different from the highest"),
}
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # else an option of the line break before it, as a star is
        "*": "{*}",
        '"': r"\textquotedbl{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "±": r"$\pm$",
        "·": r"$\cdot$",
        "\N{MULTIPLICATION SIGN}": r"$\times$",
        "²": r"$^2$",
        "→": r"$\to$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "\n": " ",
    }
)


class Part(NamedTuple):
    """A table or a figure of a page, and the name of its files."""

    name: str
    content: Table | Drawing

    @property
    def files(self) -> dict[str, str]:
        """The name of each of its files, by its format."""
        return {form: self.name + end for form, end in SUFFIXES[type(self.content)].items()}

    def render(self, suffix: str) -> bytes:
        """Return the content of its file with a suffix, such as `.csv`."""
        if isinstance(self.content, Drawing):
            is_svg = suffix == ".svg"
            return self.content.svg.encode() if is_svg else self.content.render(suffix[1:])
        if suffix == ".csv":
            return build_frame(self.content).to_csv(index=False).encode()
        return format_latex(self.content, self.name).encode()


def list_parts(sections: Iterable[Section]) -> list[Part]:
    """Return the tables and figures of a page under distinct names, in its order."""
    parts: list[Part] = []
    for section in sections:
        for content in section.components:
            if isinstance(content, Table | Drawing):
                name = content.name if isinstance(content, Drawing) else _shorten(content.caption)
                alike = [p for p in parts if type(p.content) is type(content) and p.name == name]
                parts.append(Part(f"{name}_{len(alike) + 1}" if alike else name, content))
    return parts


def _shorten(caption: str) -> str:
    """Return the first clause of a caption as the name of a file."""
    words = re.sub(r"[^a-z0-9]+", "_", caption.partition(":")[0].lower())
    return words[:MAX_NAME].strip("_") or "table"


def select_parts(
    parts: Sequence[Part], kind: type[Table] | type[Drawing], patterns: Sequence[str]
) -> list[Part]:
    """Return the tables, or the figures, whose name matches a pattern, or all without patterns.

    Raises:
        RequestError: For a pattern, such as `accuracy_*`, that matches none.
    """
    own = [part for part in parts if isinstance(part.content, kind)]
    for pattern in patterns:
        if not any(fnmatchcase(part.name, pattern) for part in own):
            known = ", ".join(part.name for part in own) or "none"
            raise RequestError(f"--name {pattern} matches none of {known}")
    return [p for p in own if not patterns or any(fnmatchcase(p.name, each) for each in patterns)]


def write_parts(
    folder: Path,
    parts: Iterable[Part],
    skip: Callable[[Part, Path], bool] = lambda part, path: False,
) -> list[Path]:
    """Write the files of tables and figures but for those to skip, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [(part, folder / name) for part in parts for name in part.files.values()]
    written = [(part, path) for part, path in files if not skip(part, path)]
    for part, path in written:
        write_bytes(path, part.render(path.suffix))
    return [path for _, path in written]


def remove_others(folder: Path, parts: Iterable[Part]) -> None:
    """Remove the files of an earlier page's tables and figures that are no longer on it."""
    kept = {name for part in parts for name in part.files.values()}
    for ends in SUFFIXES.values():
        for end in ends.values():
            for path in folder.glob(f"*{end}"):
                if path.name not in kept:
                    path.unlink()


def build_frame(table: Table) -> pd.DataFrame:
    """Return a table of a page as a data frame.

    A column of numbers becomes one of floats, as rounded on the page and NaN where undefined. Those
    that its cells also have follow in columns of their own: the spread (`±`), the number of seeds
    that define it (`seeds`), an interval (`low` and `high`), and notes (`note`).
    """
    columns: dict[str, list[Any]] = {}
    for place, head in enumerate(_name_columns(table.columns)):
        cells = [row[place] for row in table.rows]
        if place < table.num_heads:
            columns[head] = [_flatten(f"{cell.text} {cell.extra}") for cell in cells]
        else:
            columns |= dict(_split_column(head, cells))
    frame = pd.DataFrame({name: pd.Series(values) for name, values in columns.items()})
    for name in frame.columns[: table.num_heads]:
        numbers = pd.to_numeric(frame[name], errors="coerce")
        if len(frame) and numbers.notna().all():
            frame[name] = numbers
    return frame


def _name_columns(heads: Sequence[str]) -> list[str]:
    """Return distinct names of columns in one line."""
    names: list[str] = []
    for head in heads:
        name = " ".join(head.split())
        names.append(f"{name} {names.count(name) + 1}" if name in names else name)
    return names


def _flatten(text: str) -> str | float:
    """Return text in one line, or NaN for an empty one, as CSV holds it."""
    return " ".join(text.split()) or nan


def _split_column(head: str, cells: Sequence[Cell]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the columns of a frame that hold the content of a column of a table."""
    found = [VALUE.fullmatch(cell.text) for cell in cells]
    is_number = all(m or c.text == UNDEFINED for m, c in zip(found, cells, strict=True))
    intervals = [INTERVAL.fullmatch(cell.extra) for cell in cells]
    if is_number:
        yield head, [_read(match[1]) if match else nan for match in found]
        spreads = [_read(match[2]) if match and match[2] else nan for match in found]
        if any(value == value for value in spreads):
            yield f"{head} ±", spreads
        if any(match and match[3] for match in found):
            yield f"{head} seeds", [match[3] or nan if match else nan for match in found]
    else:
        yield head, [_flatten(cell.text) for cell in cells]
    if any(intervals):
        for number, name in enumerate(("low", "high"), 1):
            yield f"{head} {name}", [_read(m[number]) if m else nan for m in intervals]
    notes = [
        _join_notes(cell, "" if interval else cell.extra)
        for cell, interval in zip(cells, intervals, strict=True)
    ]
    if any(isinstance(note, str) for note in notes):
        yield f"{head} note", notes


def _join_notes(cell: Cell, extra: str) -> str | float:
    notes = (extra, cell.alarm, cell.doubt, *VERDICTS.get(cell.verdict, ())[1:])
    return _flatten("; ".join(note for note in notes if note))


def _read(number: str) -> float:
    return float(number.replace(",", ""))


def format_latex(table: Table, name: str) -> str:
    """Return a table as LaTeX for the packages booktabs and array, with a caption and a label."""
    heads = [escape_latex(head) for head in table.columns]
    rows = [[_format_cell(cell, table) for cell in row] for row in table.rows]
    notes = [rf"\textsuperscript{{{i}}} {escape_latex(d)}" for i, d in enumerate(table.doubts, 1)]
    shown = [VERDICTS[verdict] for verdict in table.verdicts]
    notes += [rf"\textsuperscript{{{mark}}} {words}" for mark, words in shown]
    lines = [
        "% needs \\usepackage{booktabs} and \\usepackage{array}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.caption)}}}",
        rf"  \label{{tab:{name}}}",
        rf"  \begin{{tabular}}{{{_choose_alignment(table)}}}",
        r"    \toprule",
        f"    {' & '.join(heads)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(row)} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *([rf"  \par\smallskip{{\footnotesize {'; '.join(notes)}.\par}}"] if notes else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _choose_alignment(table: Table) -> str:
    """Return the letters of the columns: numbers to the right, long words in several lines."""
    letters = []
    for place in range(len(table.columns)):
        words = any(len(row[place].text) > WIDE for row in table.rows)
        right = table.numeric and place >= table.num_heads
        letters.append(r">{\raggedright\arraybackslash}p{5cm}" if words else "lr"[right])
    return "".join(letters)


def _format_cell(cell: Cell, table: Table) -> str:
    if not cell.rows:
        return ""  # as the one above
    marks = VERDICTS[cell.verdict][0] if cell.verdict else ""
    marks += table.footnote_number(cell) if cell.doubt else ""
    text = _format_value(cell.text) + (rf"\textsuperscript{{{marks}}}" if marks else "")
    small = [_format_value(words) for words in (cell.extra, cell.alarm) if words]
    return " ".join([text, *(rf"{{\footnotesize {words}}}" for words in small)])


def _format_value(text: str) -> str:
    r"""Return a number with its spread, an interval, or words, in LaTeX.

    >>> print(_format_value("79.0 ± 1.4 (1/2)"), _format_value("[-0.1, 0.5]"), _format_value("a_b"))
    $79.0 \pm 1.4$ (1/2) $[-0.1,\ 0.5]$ a\_b
    """
    if text == UNDEFINED:
        return "--"
    if value := VALUE.fullmatch(text):
        spread = rf" \pm {_format_number(value[2])}" if value[2] else ""
        return f"${_format_number(value[1])}{spread}$" + (f" ({value[3]})" if value[3] else "")
    if bounds := INTERVAL.fullmatch(text):
        return rf"$[{_format_number(bounds[1])},\ {_format_number(bounds[2])}]$"
    return escape_latex(text)


def _format_number(number: str) -> str:
    mantissa, _, exponent = number.replace(",", "{,}").partition("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}" if exponent else mantissa


def escape_latex(text: str) -> str:
    r"""Return text with the characters escaped that LaTeX reads as commands.

    >>> print(escape_latex("50 % of a_mix & {b}"))
    50 \% of a\_mix \& \{b\}
    """
    return text.translate(LATEX)


def list_links(folder: Path, parts: Iterable[Part]) -> Mapping[int, list[tuple[str, str]]]:
    """Return the format and the address, from the page beside the folder, of each file in it.

    They are listed by the identity of their table or figure.
    """
    return {
        id(part.content): [
            (form, f"{folder.name}/{name}")
            for form, name in part.files.items()
            if (folder / name).exists()
        ]
        for part in parts
    }
