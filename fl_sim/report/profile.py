"""Where a round's time went, as tables in the terminal."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text


def times(parts: Iterable[tuple[str, float, float]], title: str) -> Table:
    """Return where time goes: seconds by the clock and of work, by part, with their sum."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("part")
    for name in ("ms a round", "share", "working ms", "waiting ms"):
        table.add_column(name, justify="right")
    names, walls, cpus = zip(*parts, strict=True)
    for name, wall, cpu in zip(names, walls, cpus, strict=True):
        _add_times(table, name, wall, cpu, sum(walls))
    table.add_section()
    _add_times(table, "all", sum(walls), sum(cpus), sum(walls))
    return table


def _add_times(table: Table, name: str, wall: float, cpu: float, whole: float) -> None:
    numbers = (1000 * wall, 1000 * cpu, 1000 * max(0.0, wall - cpu))
    took, worked, waited = (f"{number:.1f}" for number in numbers)
    table.add_row(name, took, f"{wall / whole:.0%}" if whole else "", worked, waited)


def functions(found: Iterable[tuple[str, float, float, float]]) -> Table:
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
