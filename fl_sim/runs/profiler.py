"""Profiler of a round: the time of its parts, and the functions that take most time."""

import cProfile
import pstats
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal, NamedTuple, get_args

from fl_sim.core import process
from fl_sim.core.errors import RequestError, require
from fl_sim.core.pass_counter import count_passes
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import load_federation
from fl_sim.rounds.callbacks import Callback, Phase
from fl_sim.rounds.loop import run_rounds
from fl_sim.rounds.state import RoundOutcome
from fl_sim.runs import feasibility
from fl_sim.runs.batching import choose_batching
from fl_sim.runs.checkpoint import Checkpointer
from fl_sim.runs.run_options import RunOptions
from fl_sim.runs.single_run import make_backend, make_initial_state

Part = Literal["training", "aggregation", "evaluation", "metrics", "checkpoint", "rest"]
PARTS: tuple[Part, ...] = get_args(Part)
NUM_FUNCTIONS = 12  # functions that are listed


class PartTime(NamedTuple):
    """Seconds per round of one part: wall-clock time, and CPU time of this process.

    Their difference is time spent waiting for workers, the disk, or a core.
    """

    part: Part
    wall: float
    cpu: float


class FunctionTime(NamedTuple):
    """Time of a function in seconds per round, alone and with the functions that it calls."""

    name: str
    calls: float
    own: float
    total: float


@dataclass(frozen=True)
class Profile:
    """Mean times of a round by part, and by function."""

    rounds: int
    parts: list[PartTime]
    functions: list[FunctionTime]


class PhaseTimer(Callback):
    """Adds up the seconds of each part of a round.

    Attributes:
        wall: Wall-clock seconds by part.
        cpu: CPU seconds of this process by part.
    """

    def __init__(self) -> None:
        """Start to count for the part `rest`."""
        self.wall: dict[Part, float] = defaultdict(float)
        self.cpu: dict[Part, float] = defaultdict(float)
        self.part: Part = "rest"
        self.since = perf_counter(), process_time()

    def switch_to(self, part: Part) -> None:
        """Count the time from now on for `part`."""
        now = perf_counter(), process_time()
        self.wall[self.part] += now[0] - self.since[0]
        self.cpu[self.part] += now[1] - self.since[1]
        self.part, self.since = part, now

    def clear(self) -> None:
        """Reset all times."""
        self.wall.clear()
        self.cpu.clear()

    def on_phase_start(self, phase: Phase) -> None:
        """Count for the phase."""
        self.switch_to(phase)

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Count for the checkpoint, which the next callback writes."""
        self.switch_to("checkpoint")


def profile(
    experiment: Experiment,
    count: int,
    options: RunOptions,
    watch: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
) -> Profile:
    """Time `count` rounds after a first one, then as many under Python's profiler.

    They are separate, since the profiler slows everything down, and small functions most. Kernels
    of an accelerator run on while Python continues: their time counts where Python waits for them.

    Args:
        experiment: The experiment.
        count: Number of rounds.
        options: Options of the run, of which no folder is used.
        watch: Called with a stage of the work, the number of its steps that are done, and of all.

    Raises:
        RequestError: For a wrong experiment, or the engine `flower`.
    """
    if options.engine == "flower":
        raise RequestError("profile takes the engines local and ray; got flower")
    require(count >= 1, "rounds", "at least 1", count)
    experiment = replace(experiment, rounds=1 + 2 * count)
    feasibility.check(experiment, options.batch_clients)
    process.configure_process()
    with options.use_device():
        return _profile(experiment, count, options, watch)


def _profile(
    experiment: Experiment,
    count: int,
    options: RunOptions,
    watch: Callable[[str, int, int | None], None],
) -> Profile:
    with count_passes(lambda made: watch("passes of noise", made.passes, made.expected or None)):
        federation = load_federation(experiment.to_json())
    timer, profiler = PhaseTimer(), cProfile.Profile()
    state = make_initial_state(federation, choose_batching(options.batch_clients, federation))
    backend = make_backend(federation, options)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = (timer, Checkpointer(Path(folder), federation, {}))
        for outcome in run_rounds(federation, state, backend, callbacks):
            timer.switch_to("rest")
            watch("rounds", outcome.state.round, 1 + 2 * count)
            if outcome.state.round == 1:
                timer.clear()
            if outcome.state.round == 1 + count:
                part_times = [
                    PartTime(p, timer.wall[p] / count, timer.cpu[p] / count) for p in PARTS
                ]
                profiler.enable()
        profiler.disable()
    return Profile(count, part_times, _rank_functions(pstats.Stats(profiler), count))


def _rank_functions(stats: Any, count: int) -> list[FunctionTime]:
    """Return the functions that take most time themselves."""
    functions = []
    for (file, line, name), (_, calls, own, total, _) in stats.stats.items():
        label = name if file == "~" else f"{Path(file).name}:{line} {name}"
        functions.append(FunctionTime(label, calls / count, own / count, total / count))
    return sorted(functions, key=lambda function: -function.own)[:NUM_FUNCTIONS]
