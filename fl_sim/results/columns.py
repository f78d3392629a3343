"""Data dictionary of the results: the columns of every table, from `columns.toml`."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Column(NamedTuple):
    """A column, or a family of them.

    Attributes:
        table: Table that it belongs to, such as `cells`, with one row per cell and seed, or
            `rows`, with one row per number.
        name: Name of the column, in which `<group>_`, `<rate>` and `<what>` are placeholders.
        meaning: Its meaning.
        kind: Type of its values, in words.
        values: Unit or range of its values; empty if there is nothing to add to the type.
    """

    table: str
    name: str
    meaning: str
    kind: str
    values: str


class Table(NamedTuple):
    """A table of results.

    Attributes:
        name: Name of the table.
        place: Expression or file that holds it.
        about: What a row is, and where the table is found.
        columns: Its columns, in order.
    """

    name: str
    place: str
    about: str
    columns: tuple[Column, ...]


def _read_tables() -> dict[str, Table]:
    content = tomllib.loads(Path(__file__).with_name("columns.toml").read_text("utf-8"))
    return {
        table: Table(
            table,
            entry["place"],
            entry["about"],
            tuple(
                Column(table, name, meaning, kind, values)
                for name, (kind, values, meaning) in entry["columns"].items()
            ),
        )
        for table, entry in content.items()
    }


TABLES = _read_tables()


def list_columns() -> list[Column]:
    """Return every column of all tables, those of `cells` first."""
    return [column for table in TABLES.values() for column in table.columns]


def find_column(table: str, name: str) -> Column | None:
    """Return the description of a column, or None if it has none.

    >>> find_column("cells", "cost.bytes_up").values
    'bytes'
    """
    columns = TABLES[table].columns
    exact = (column for column in columns if column.name == name)
    return next(exact, next((c for c in columns if _matches(c.name, name)), None))


def find_meaning(table: str, name: str) -> str | None:
    """Return the meaning of a column, or None if it has no description.

    >>> find_meaning("cells", "cost.bytes_up")
    'bytes that clients sent over all rounds'
    """
    column = find_column(table, name)
    return None if column is None else column.meaning


def find_undescribed(table: str, names: Iterable[str]) -> list[str]:
    """Return the columns of a table that have no description."""
    return [name for name in names if find_column(table, name) is None]


def _matches(pattern: str, name: str) -> bool:
    text = re.escape(pattern).replace("<group>_", r"(?:\w+_)?").replace("<group>", r"\w+")
    text = text.replace("<rate>", r"[\d.]+").replace("<what>", r"[\w.]+")
    return re.fullmatch(text, name) is not None
