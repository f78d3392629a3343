"""Progress bars in the terminal, for runs, studies, audits and protections."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import nan
from time import perf_counter

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
from rich.table import Column

from fl_sim.core.forecast import Clock, Pace, describe_left
from fl_sim.core.literals import ProgressMode as Mode
from fl_sim.runs.progress import Listener, Progress, RunsLeft
from fl_sim.runs.study import Point

PAUSE = 60.0  # seconds between two lines about the same work, where there is no terminal
SETTLED = 2.0  # seconds after which the rate of a stage is told for the first time


def _make_bars(console: Console, *columns: ProgressColumn) -> Bars:
    """Return bars that disappear at the end; without a terminal none are shown.

    They fill the width of the terminal, for which long descriptions are cut.
    """
    cut = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    first = TextColumn("{task.description}", markup=False, table_column=cut), BarColumn(12)
    hidden = not console.is_terminal
    return Bars(*first, *columns, console=console, transient=True, disable=hidden, expand=True)


def _write_field(name: str) -> TextColumn:
    return TextColumn(f"{{task.fields[{name}]}}", markup=False, table_column=Column(no_wrap=True))


class _Lines:
    """Lines that stand for bars where there is no terminal; one a minute about each subject."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self.console, self.clock = console, clock
        self.told: dict[str, float] = {}

    def tell(self, subject: str, *words: str) -> None:
        """Print the words, unless the last ones about the subject are recent."""
        if self.console.is_terminal or self.clock() - self.told.get(subject, -PAUSE) < PAUSE:
            return
        self.told[subject] = self.clock()
        text = ", ".join(filter(None, words))
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


@contextmanager
def show_download(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a listener that shows the bytes of a file that are here, and of the whole file."""
    with _make_bars(console, DownloadColumn(), TimeRemainingColumn()) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, size: bars.update(task, completed=done, total=size or None)


@contextmanager
def show_progress(
    console: Console, num_runs: int, mode: Mode = "bar", clock: Clock = perf_counter
) -> Iterator[Listener]:
    """Yield a listener that shows the progress of runs, and the time that is left.

    Args:
        console: The terminal.
        num_runs: Number of runs.
        mode: `bar` shows a bar for all runs and one for each active run, or without a terminal
            one line per finished run, and one a minute about noise and about all runs. `json`
            prints one line of JSON per round, as in `progress.jsonl`. `none` prints nothing.
        clock: Function that returns the time in seconds.
    """
    if mode == "bar":
        with _show_bars(console, num_runs, clock) as listen:
            yield listen
    else:
        yield _print_line if mode == "json" else lambda progress: None


def _print_line(progress: Progress) -> None:
    print(progress.to_json(), flush=True)


@contextmanager
def _show_bars(console: Console, num_runs: int, clock: Clock) -> Iterator[Listener]:
    bars = _make_bars(console, *map(_write_field, ("count", "note", "left")))
    lines, runs = _Lines(console, clock), RunsLeft(num_runs, clock)
    whole = bars.add_task("all runs", total=num_runs, count=f"0/{num_runs} runs", note="", left="")
    tasks: dict[str, TaskID] = {}

    def listen(progress: Progress) -> None:
        runs.add(progress)
        noise, all_noise = progress.noise_passes, progress.noise_total
        left = describe_left(progress.seconds_left)
        if noise:
            share = f" {noise / all_noise:.0%}" if all_noise else ""
            count, note = f"noise{share}", "" if all_noise else f"{noise:,} passes"
            done, total = noise, all_noise or None
            passes = f"{noise:,} of at most {all_noise:,} passes" if all_noise else note
            lines.tell(f"noise {progress.key}", f"noise of {progress.label}: {passes}", left)
        else:
            count, note = f"{progress.round}/{progress.rounds} rounds", ""
            done, total = progress.round, progress.rounds
            note = f"accuracy {progress.accuracy:.3f}"
        if progress.key not in tasks:
            tasks[progress.key] = bars.add_task(progress.label, count="", note="", left="")
        task = tasks[progress.key]
        bars.update(task, completed=done, total=total, count=count, note=note, left=left)
        if done == total:
            bars.remove_task(tasks.pop(progress.key))
        all_left, finished = describe_left(runs.seconds_left), f"{runs.finished}/{num_runs} runs"
        bars.update(whole, completed=runs.finished, count=finished, left=all_left)
        if progress.round == progress.rounds:
            console.print(f"finished  accuracy {progress.accuracy:.3f}  {progress.label}")
        if all_left and runs.finished < num_runs:
            lines.tell("all runs", f"{runs.finished} of {num_runs} runs finished", all_left)

    with bars:
        yield listen


@contextmanager
def show_stages(
    console: Console, clock: Clock = perf_counter
) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a listener that draws a bar for each stage, or a count if its total is None.

    Without a terminal, a stage that takes long prints one line a minute.
    """
    bars = _make_bars(console, _write_field("count"), TimeElapsedColumn(), _write_field("left"))
    lines = _Lines(console, clock)
    tasks: dict[str, tuple[TaskID, Pace]] = {}

    def watch(stage: str, done: int, total: int | None) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, count="", left=""), Pace(done, clock)
            lines.told[stage] = clock() + SETTLED - PAUSE
        (task, pace), count = tasks[stage], str(done) if total is None else f"{done:,}/{total:,}"
        left = describe_left(pace.estimate_seconds_left(done, total or nan))
        bars.update(task, completed=done, total=total, count=count, left=left)
        lines.tell(stage, f"{stage}: {count}", left)

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
