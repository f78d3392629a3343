"""Live progress in the terminal; one line a finished run where there is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from fl_sim.engine.session import Listener, Progress


@contextmanager
def live_progress(console: Console, num_runs: int) -> Iterator[Listener]:
    """Yield a listener that draws a bar for all runs, and one for each that is under way."""
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
        note = f"rounds, {progress.clients} clients, accuracy {progress.accuracy:.3f}"
        if progress.key not in tasks:
            tasks[progress.key] = bars.add_task(progress.label, total=progress.rounds, note=note)
        bars.update(tasks[progress.key], completed=progress.round, note=note)
        if progress.round == progress.rounds:
            bars.remove_task(tasks.pop(progress.key))
            bars.advance(whole)
            console.print(f"finished  accuracy {progress.accuracy:.3f}  {progress.label}")

    with bars:
        yield listen
