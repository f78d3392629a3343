"""Live progress in the terminal; one line a finished run where there is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from fl_sim.engine.session import Listener, Progress


@contextmanager
def live_progress(console: Console) -> Iterator[Listener]:
    """Yield a listener that draws a bar for each run that is under way."""
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rounds, {task.fields[clients]} clients, accuracy {task.fields[accuracy]:.3f}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    tasks = {}

    def listen(progress: Progress) -> None:
        if progress.key not in tasks:
            tasks[progress.key] = bars.add_task(
                progress.label, total=progress.rounds, clients=progress.clients, accuracy=0.0
            )
        task = tasks[progress.key]
        bars.update(task, completed=progress.round, accuracy=progress.accuracy)
        if progress.round == progress.rounds:
            bars.remove_task(tasks.pop(progress.key))
            console.print(f"finished  accuracy {progress.accuracy:.3f}  {progress.label}")

    with bars:
        yield listen
