"""Progress of runs, reported after every round to a listener and to a file."""

import json
from collections import deque
from collections.abc import Callable
from math import isfinite, nan
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from fl_sim.contracts import Failure, Row
from fl_sim.core.atomic_io import write_text
from fl_sim.core.forecast import Clock, Pace
from fl_sim.core.pass_counter import Listener as PassListener
from fl_sim.core.pass_counter import PassCount
from fl_sim.core.process import peak_memory
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import Federation
from fl_sim.rounds.callbacks import Callback
from fl_sim.rounds.state import RoundOutcome, State
from fl_sim.rounds.stopping import is_over
from fl_sim.runs.memory import MIB

NOISE_SECONDS = 2.0  # between two reports while noise is made
NUM_RECENT = 10  # rounds whose durations predict the remaining time


class Progress(NamedTuple):
    """State of a run after a round; rates are of the rounds of this process.

    `key` is the folder of the run; `seconds` is the duration of the last round. While noise is
    made, in round 0, `noise_passes` counts the images of all forward and backward passes, of at
    most `noise_total` (0 if that is unknown), and `seconds_left` is the time left for them.
    """

    key: str
    label: str
    round: int
    rounds: int
    clients: int
    accuracy: float
    failures: int = 0
    seconds: float = 0.0
    clients_per_second: float = 0.0
    seconds_left: float = 0.0
    peak_mib: float = 0.0
    noise_passes: int = 0
    noise_total: int = 0

    def to_json(self) -> str:
        """Return one line of JSON, with null for unknown numbers, and noise only while made."""
        content = {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in self._asdict().items()
            if name not in ("noise_passes", "noise_total") or value
        }
        return json.dumps({"run": content.pop("key"), **content})


Listener = Callable[[Progress], None]


def report_passes(
    experiment: Experiment, folder: Path, label: str, listen: Listener, clock: Clock = perf_counter
) -> PassListener:
    """Return a callback that takes the count of passes, and reports it every few seconds."""
    pace: Pace | None = None
    last_report = clock()

    def report(count: PassCount) -> None:
        nonlocal pace, last_report
        pace = pace or Pace(count.passes, clock)
        if clock() - last_report >= NOISE_SECONDS:
            last_report = clock()
            left = pace.estimate_seconds_left(count.passes, count.expected or nan)
            rounds, clients = experiment.rounds, experiment.clients_per_round
            start = Progress(str(folder), label, 0, rounds, clients, nan, seconds_left=left)
            listen(start._replace(noise_passes=count.passes, noise_total=count.expected))

    return report


class RunsLeft:
    """The state of several runs together, and the time that the rest of them will take.

    Runs that had finished before are left out of the rate, and so are earlier rounds of runs that
    are continued.

    Attributes:
        num_runs: Number of runs.
        finished: Number of runs that have finished, before or now.
    """

    def __init__(self, num_runs: int, clock: Clock = perf_counter) -> None:
        """Wait for the first round of any run."""
        self.num_runs, self.finished, self.clock = num_runs, 0, clock
        self.todo = float(num_runs)  # in runs, without what had been done before
        self.shares: dict[str, tuple[float, float]] = {}  # of each run: done before, done by now
        self.pace: Pace | None = None

    def add(self, progress: Progress) -> None:
        """Take a report of a run."""
        if progress.round == 0:
            return
        share = progress.round / progress.rounds
        if progress.key not in self.shares:
            now = 0 if progress.seconds == 0 else 1  # rounds that this process ran
            before = (progress.round - now) / progress.rounds
            self.todo -= before
            self.shares[progress.key] = before, share
        self.shares[progress.key] = self.shares[progress.key][0], share
        self.finished += progress.round == progress.rounds
        if self.pace is None and progress.seconds:
            self.pace = Pace(0, self.clock, progress.seconds)

    @property
    def seconds_left(self) -> float:
        """Seconds until all runs have finished; NaN before the first round of any."""
        if self.pace is None:
            return nan
        done = sum(now - before for before, now in self.shares.values())
        return self.pace.estimate_seconds_left(done, self.todo)


class ProgressReporter(Callback):
    """Reports each round to a listener and to `progress.jsonl` in the run's folder."""

    def __init__(self, folder: Path, label: str, listen: Listener) -> None:
        """Prepare to report on the run in `folder`."""
        self.folder, self.label, self.listen = folder, label, listen
        self.path = folder / "progress.jsonl"
        self.durations: deque[float] = deque(maxlen=NUM_RECENT)

    def on_run_start(self, federation: Federation, state: State) -> None:
        """Start to report, and drop the lines of rounds that will be run again."""
        self.experiment = federation.experiment
        self.num_rounds = self.experiment.rounds
        write_text(self.path, "".join(_read_previous_lines(self.path)[: state.round]))
        self.since = perf_counter()

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Report a round."""
        state = outcome.state
        if is_over(self.experiment, state.round, state.watched):
            self.num_rounds = state.round
        progress = self._measure_progress(state.round, outcome.rows, outcome.failures)
        with self.path.open("a") as file:
            file.write(progress.to_json() + "\n")
        self.listen(progress)

    def _measure_progress(
        self, round_num: int, rows: list[Row], failures: list[Failure]
    ) -> Progress:
        now, clients = perf_counter(), self.experiment.clients_per_round
        seconds, self.since = now - self.since, now
        self.durations.append(seconds)
        left = (self.num_rounds - round_num) * sum(self.durations) / len(self.durations)
        accuracies = [r.value for r in rows if r.metric == "accuracy" and r.client == -1]
        accuracy = accuracies[0] if accuracies else float("nan")
        return Progress(
            key=str(self.folder),
            label=self.label,
            round=round_num,
            rounds=self.num_rounds,
            clients=clients,
            accuracy=accuracy,
            failures=len(failures),
            seconds=round(seconds, 4),
            clients_per_second=round(clients / seconds, 2),
            seconds_left=round(left, 2),
            peak_mib=round(peak_memory() / MIB, 1),
        )


def _read_previous_lines(path: Path) -> list[str]:
    """Return the lines of an earlier process, also damaged ones, since they are never parsed."""
    try:
        return path.read_text(errors="replace").splitlines(keepends=True)
    except OSError:
        return []


def describe_finished(
    experiment: Experiment, folder: Path, label: str, result: dict[str, Any]
) -> Progress:
    """Return the progress of a run that had finished before."""
    clients = experiment.clients_per_round
    accuracy = float("nan") if result["accuracy"] is None else result["accuracy"]  # null in JSON
    return Progress(str(folder), label, result["rounds"], result["rounds"], clients, accuracy)
