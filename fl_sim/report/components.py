"""Components of the page: sections of text, tables, definitions and figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

from fl_sim.report.formats import UNDEFINED


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Content.
        doubt: Reason why the number should not be read. Such a cell is greyed out.
        extra: Smaller print below the text, such as an interval.
        alarm: Print below the text in the colour of warnings.
        hover: Text that appears under the pointer, such as the number of each seed.
        verdict: Word for a number that is no different from chance, from 0 or from the highest.
        rows: Number of rows that the cell spans; 0 if the span of a cell above covers it.
    """

    text: str
    doubt: str = ""
    extra: str = ""
    alarm: str = ""
    rows: int = 1
    hover: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first `num_heads` columns name the row.

    Attributes:
        doubts: Reasons why cells should not be read, in the order of their footnotes.
        verdicts: Verdicts that cells have, for the legend.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_heads: int
    numeric: bool
    doubts: tuple[str, ...] = field(init=False)
    verdicts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        cells = [cell for row in self.rows for cell in row]
        for name in ("doubt", "verdict"):
            words = dict.fromkeys(getattr(cell, name) for cell in cells if getattr(cell, name))
            object.__setattr__(self, f"{name}s", tuple(words))

    def footnote_number(self, cell: Cell) -> str:
        """Return the number of the footnote with the reason why a cell is greyed out."""
        return str(self.doubts.index(cell.doubt) + 1)


@dataclass(frozen=True)
class DefinitionList:
    """A list of terms and their definitions."""

    kind: ClassVar[str] = "definitions"
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Drawing:
    """A rendered figure: `svg` is a whole file, `inline` the same as an element of a page.

    `render` returns it as a file of a format, such as `png` or `pdf`.
    """

    kind: ClassVar[str] = "drawing"
    name: str
    caption: str
    svg: str
    inline: str
    render: Callable[[str], bytes] = field(repr=False, compare=False)


class Tile(NamedTuple):
    """A headline number: its name, value, interval, a note on its setting, and the whole of it."""

    name: str
    value: str
    interval: str = ""
    note: str = ""
    hover: str = ""


@dataclass(frozen=True)
class Tiles:
    """A row of headline numbers."""

    kind: ClassVar[str] = "tiles"
    entries: tuple[Tile, ...]


Component = Table | DefinitionList | Drawing | Tiles


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs, and the components below them.

    A section without a title has no heading and no link. A folded one shows only its heading
    until it is opened.
    """

    name: str
    title: str
    paragraphs: tuple[str, ...]
    components: tuple[Component, ...]
    folded: bool = False


def build_figure_section(name: str, title: str, *drawings: Drawing | None) -> Section | None:
    """Return a section with the figures that are not None, or None if there are none."""
    figures = tuple(drawing for drawing in drawings if drawing is not None)
    return Section(name, title, (), figures) if figures else None


def build_table(
    caption: str,
    heads: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    numeric: bool = True,
) -> Table:
    """Return a table whose equal neighbours in the heading columns are merged."""
    merged = _merge_equal(rows, len(heads))
    return Table(caption, (*heads, *columns), merged, len(heads), numeric)


def drop_empty_columns(table: Table) -> Table:
    """Return a table without the columns that have no number in any row and no reason for it."""
    kept = [
        place
        for place in range(len(table.columns))
        if place < table.num_heads
        or any(row[place].text != UNDEFINED or row[place].doubt for row in table.rows)
    ]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in table.rows),
    )


def _merge_equal(rows: Sequence[Sequence[Cell]], num_heads: int) -> tuple[tuple[Cell, ...], ...]:
    """Merge a heading cell with the one above if all headings to its left agree as well."""
    grid = [list(row) for row in rows]
    for column in range(num_heads - 1):  # the last heading identifies the row: never merged
        start = 0
        for i in range(1, len(grid) + 1):
            headings = [cell.text for cell in rows[start][: column + 1]]
            if i < len(grid) and [cell.text for cell in rows[i][: column + 1]] == headings:
                continue
            grid[start][column] = Cell(rows[start][column].text, rows=i - start)
            for covered in range(start + 1, i):
                grid[covered][column] = Cell(rows[covered][column].text, rows=0)
            start = i
    return tuple(tuple(row) for row in grid)
