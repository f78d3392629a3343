"""Progress bars in the terminal, for runs, studies, audits and protections."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from fl_sim.core.literals import ProgressMode as Mode
from fl_sim.runs.progress import Listener, Progress
from fl_sim.runs.study import Point


def _make_bars(console: Console, *columns: ProgressColumn) -> Bars:
    """Return bars that disappear at the end; without a terminal none are shown."""
    first = (TextColumn("{task.description}"), BarColumn())
    hidden = not console.is_terminal
    return Bars(*first, *columns, console=console, transient=True, disable=hidden)


@contextmanager
def show_download(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a listener that shows the bytes of a file that are here, and of the whole file."""
    with _make_bars(console, DownloadColumn(), TimeRemainingColumn()) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, size: bars.update(task, completed=done, total=size or None)


@contextmanager
def show_progress(console: Console, num_runs: int, mode: Mode = "bar") -> Iterator[Listener]:
    """Yield a listener that shows the progress of runs.

    Args:
        console: The terminal.
        num_runs: Number of runs.
        mode: `bar` shows a bar for all runs and one for each active run, or without a terminal
            one line per finished run. `json` prints one line of JSON per round, as in
            `progress.jsonl`. `none` prints nothing.
    """
    if mode == "bar":
        with _show_bars(console, num_runs) as listen:
            yield listen
    else:
        yield _print_line if mode == "json" else lambda progress: None


def _print_line(progress: Progress) -> None:
    print(progress.to_json(), flush=True)


@contextmanager
def _show_bars(console: Console, num_runs: int) -> Iterator[Listener]:
    bars = _make_bars(
        console, MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn()
    )
    whole = bars.add_task("all runs", total=num_runs, note="runs")
    tasks = {}

    def listen(progress: Progress) -> None:
        rate = f"{progress.clients_per_second:.3g} clients/s"
        note = f"rounds, {rate}, accuracy {progress.accuracy:.3f}"
        if progress.noise_passes:
            note = f"rounds; making noise, {progress.noise_passes:,} passes"
        if progress.key not in tasks:
            tasks[progress.key] = bars.add_task(progress.label, total=progress.rounds, note=note)
        bars.update(tasks[progress.key], completed=progress.round, note=note)
        if progress.round == progress.rounds:
            bars.remove_task(tasks.pop(progress.key))
            bars.advance(whole)
            console.print(f"finished  accuracy {progress.accuracy:.3f}  {progress.label}")

    with bars:
        yield listen


@contextmanager
def show_stages(console: Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a listener that draws a bar for each stage, or a count if its total is None."""
    bars = _make_bars(console, TextColumn("{task.fields[count]}"), TimeElapsedColumn())
    tasks: dict[str, TaskID] = {}

    def watch(stage: str, done: int, total: int | None) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, count="")
        count = str(done) if total is None else f"{done}/{total}"
        bars.update(tasks[stage], completed=done, count=count)

    with bars:
        yield watch


@contextmanager
def show_study_progress(
    console: Console, num_points: int
) -> Iterator[Callable[[Point, str], None]]:
    """Yield a callback that takes each finished point, and its error or an empty string."""
    bars = _make_bars(console, MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    whole = bars.add_task("points", total=num_points)

    def on_point_end(point: Point, error: str) -> None:
        bars.advance(whole)
        words = f"failed    {point.label}: {error}" if error else f"measured  {point.label}"
        console.print(words, style="red" if error else None, markup=False, highlight=False)

    with bars:
        yield on_point_end


@contextmanager
def show_audit_progress(
    console: Console, num_runs: int
) -> Iterator[tuple[Listener, Callable[[str], None], Callable[[RenderableType], None]]]:
    """Yield callbacks for the rounds of a replay, the next step, and the table of an audit."""
    bars = _make_bars(console, MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    whole = bars.add_task("audits", total=num_runs, note="")
    replay = bars.add_task("replay", total=None, note="", visible=False)

    def listen(progress: Progress) -> None:
        under_way = progress.round < progress.rounds
        note = f"rounds, {progress.label}"
        bars.update(
            replay, completed=progress.round, total=progress.rounds, note=note, visible=under_way
        )

    def finished(table: RenderableType) -> None:
        bars.advance(whole)
        console.print(table)

    with bars:
        yield listen, lambda step: bars.update(whole, note=step), finished
