"""A table for the terminal that is never cut off at its right edge."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

LOOK: dict[str, Any] = {  # settings of the tables of numbers
    "box": box.SIMPLE_HEAD,
    "padding": (0, 1, 0, 0),
    "show_edge": False,
    "title_justify": "left",
    "caption_justify": "left",
}


class WideTable(Table):
    """A table that goes on below, with its first columns again, where the terminal is too narrow.

    Attributes:
        num_keys: Number of first columns, which each part has.
    """

    def __init__(self, *columns: Any, num_keys: int = 1, **settings: Any) -> None:
        """Take the settings of a table of rich."""
        super().__init__(*columns, **settings)
        self.num_keys = num_keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """Yield the table, or its parts and then its caption."""
        groups = self._split(console, options)
        if len(groups) == 1:
            yield from super().__rich_console__(console, options)
            return
        for number, group in enumerate(groups):
            part = copy(self)
            part.columns = [replace(column, _index=i) for i, column in enumerate(group)]
            part.caption = None
            if number:
                part.title = None
                yield ""
            yield from Table.__rich_console__(part, console, options)
        if self.caption is not None:
            yield self.caption if isinstance(self.caption, Text) else Text(str(self.caption))

    def _split(self, console: Console, options: ConsoleOptions) -> list[list[Column]]:
        """Return the columns of each part, as many as fit beside each other."""
        keys, rest = self.columns[: self.num_keys], self.columns[self.num_keys :]
        edges = 2 if self.show_edge else 0
        taken = sum(self._measure(column, console, options) for column in keys) + edges
        groups, room = [list(keys)], options.max_width - taken
        for column in rest:
            width = self._measure(column, console, options)
            if width > room and len(groups[-1]) > self.num_keys:
                groups.append(list(keys))
                room = options.max_width - taken
            groups[-1].append(column)
            room -= width
        return groups

    def _measure(self, column: Column, console: Console, options: ConsoleOptions) -> int:
        """Return the least width of a column with its padding and the line beside it."""
        wide = options.update(width=1000)
        sizes = [Measurement.get(console, wide, cell) for cell in (column.header, *column.cells)]
        least = max(size.maximum if column.no_wrap else size.minimum for size in sizes)
        _, right, _, left = self.padding
        return max(least, column.min_width or 0) + left + right + 1
