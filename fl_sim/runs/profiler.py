"""The time of a round by its parts, and the functions that cost most."""

import cProfile
import pstats
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal, NamedTuple, get_args

from fl_sim.core import process
from fl_sim.core.errors import RequestError
from fl_sim.core.literals import BatchMode, Engine
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
NUM_FUNCTIONS = 12  # functions that are named


class PartTime(NamedTuple):
    """Seconds a round of one part: by the clock, and of this process's own work.

    What is left of the first is waiting: for workers, for the disk, or for a core.
    """

    part: Part
    wall: float
    cpu: float


class FunctionTime(NamedTuple):
    """What a function cost, itself and with all that it called, in seconds a round."""

    name: str
    calls: float
    own: float
    total: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a round went."""

    rounds: int
    parts: list[PartTime]
    functions: list[FunctionTime]


class PhaseTimer(Callback):
    """Adds up the seconds of each part of a round.

    Attributes:
        wall: Seconds by the clock, by part.
        cpu: Seconds of this process's own work, by part.
    """

    def __init__(self) -> None:
        """Begin with the rest."""
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
        """Forget what was counted."""
        self.wall.clear()
        self.cpu.clear()

    def on_phase_start(self, phase: Phase) -> None:
        """Count for the phase."""
        self.switch_to(phase)

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Count for the checkpoint, which the next callback writes."""
        self.switch_to("checkpoint")


def profile(
    experiment: Experiment, count: int, engine: Engine, workers: int, batch_clients: BatchMode
) -> Profile:
    """Time `count` rounds after a first one, then watch as many with Python's profiler.

    The two are apart, since a profiler makes everything slower, and small functions most.

    Raises:
        RequestError: for a wrong experiment, or an engine whose clients are out of reach.
    """
    if engine == "flower":
        raise RequestError("profile takes the engines local and ray; got flower")
    experiment = replace(experiment, rounds=1 + 2 * count)
    feasibility.check(experiment, batch_clients)
    process.configure_process()
    federation = load_federation(experiment.to_json())
    timer, profiler = PhaseTimer(), cProfile.Profile()
    state = make_initial_state(federation, choose_batching(batch_clients, federation))
    backend = make_backend(federation, RunOptions(engine=engine, workers=workers))
    with tempfile.TemporaryDirectory() as folder:
        callbacks = (timer, Checkpointer(Path(folder), federation, {}))
        for outcome in run_rounds(federation, state, backend, callbacks):
            timer.switch_to("rest")
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
    """Return the functions that cost most themselves."""
    functions = []
    for (file, line, name), (_, calls, own, total, _) in stats.stats.items():
        where = name if file == "~" else f"{Path(file).name}:{line} {name}"
        functions.append(FunctionTime(where, calls / count, own / count, total / count))
    return sorted(functions, key=lambda function: -function.own)[:NUM_FUNCTIONS]
