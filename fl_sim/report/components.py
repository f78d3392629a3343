"""What the page is made of: sections of text, tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Cell:
    """One field of a table.

    Attributes:
        text: what is printed.
        doubt: why the number should not be read; it is greyed out then.
        extra: smaller print after the text, such as an interval.
        alarm: print after the text that nobody may miss.
        rows: rows that it spans; 0: it lies under the span of a cell above.
    """

    text: str
    doubt: str = ""
    extra: str = ""
    alarm: str = ""
    rows: int = 1


@dataclass(frozen=True)
class Table:
    """A table; its first `num_heads` columns name the row, the others hold numbers or words."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_heads: int
    numeric: bool
    doubts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        doubts = dict.fromkeys(cell.doubt for row in self.rows for cell in row if cell.doubt)
        object.__setattr__(self, "doubts", tuple(doubts))

    def footnote_number(self, cell: Cell) -> str:
        """Return the number of the footnote that says why a cell is greyed out."""
        return str(self.doubts.index(cell.doubt) + 1)


@dataclass(frozen=True)
class DefinitionList:
    """A list of terms, each with what it stands for."""

    kind: ClassVar[str] = "definitions"
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn: `svg` is a whole file, `inline` the same as an element of a page."""

    kind: ClassVar[str] = "drawing"
    name: str
    caption: str
    svg: str
    inline: str
    png: bytes


Component = Table | DefinitionList | Drawing


@dataclass(frozen=True)
class Section:
    """A heading, a few paragraphs, and what they are about."""

    name: str
    title: str
    paragraphs: tuple[str, ...]
    components: tuple[Component, ...]


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


def _merge_equal(rows: Sequence[Sequence[Cell]], num_heads: int) -> tuple[tuple[Cell, ...], ...]:
    """Merge a heading cell with the one above where all headings to its left agree as well."""
    grid = [list(row) for row in rows]
    for column in range(num_heads - 1):  # the last heading tells the rows apart: never merged
        start = 0
        for i in range(1, len(grid) + 1):
            own = [cell.text for cell in rows[start][: column + 1]]
            if i < len(grid) and [cell.text for cell in rows[i][: column + 1]] == own:
                continue
            grid[start][column] = Cell(rows[start][column].text, rows=i - start)
            for covered in range(start + 1, i):
                grid[covered][column] = Cell(rows[covered][column].text, rows=0)
            start = i
    return tuple(tuple(row) for row in grid)
