"""Progress in the terminal: bars, lines of JSON, or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from fl_sim.engine.progress import Listener, Progress

Mode = Literal["bar", "json", "none"]


@contextmanager
def live_progress(console: Console, num_runs: int, mode: Mode = "bar") -> Iterator[Listener]:
    """Yield a listener that shows how runs get on.

    `bar`: a bar for all runs, and one for each that is under way; where there is no terminal,
    one line a finished run. `json`: a line of JSON a round on standard output, as in
    `progress.jsonl`. `none`: nothing.
    """
    if mode == "bar":
        with _bars(console, num_runs) as listen:
            yield listen
    else:
        yield _print_line if mode == "json" else _say_nothing


def _print_line(progress: Progress) -> None:
    print(progress.to_json(), flush=True)


def _say_nothing(progress: Progress) -> None:
    pass


@contextmanager
def _bars(console: Console, num_runs: int) -> Iterator[Listener]:
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    whole = bars.add_task("all runs", total=num_runs, note="runs")
    tasks = {}

    def listen(progress: Progress) -> None:
        rate = f"{progress.clients_per_second:.3g} clients/s"
        note = f"rounds, {rate}, accuracy {progress.accuracy:.3f}"
        if progress.key not in tasks:
            tasks[progress.key] = bars.add_task(progress.label, total=progress.rounds, note=note)
        bars.update(tasks[progress.key], completed=progress.round, note=note)
        if progress.round == progress.rounds:
            bars.remove_task(tasks.pop(progress.key))
            bars.advance(whole)
            console.print(f"finished  accuracy {progress.accuracy:.3f}  {progress.label}")

    with bars:
        yield listen
