"""Where a round's time goes, seen from outside: the loop itself carries no clocks."""

import cProfile
import pstats
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Literal, NamedTuple, get_args

from jaxtyping import Float
from torch import Tensor

from fl_sim import process
from fl_sim.contracts import Decision, Senders
from fl_sim.engine import feasible
from fl_sim.engine.checkpoint import save_state
from fl_sim.engine.cohort_choice import CohortMode, choose
from fl_sim.engine.crew import Crew, Used
from fl_sim.engine.federation import Federation, federation
from fl_sim.engine.log import RunLog
from fl_sim.engine.loop import State, rounds
from fl_sim.engine.orders import Chunk, Done, Order, Tensors
from fl_sim.engine.pile import Collected
from fl_sim.engine.server import KnownRule, Plan, Server
from fl_sim.engine.session import Engine, crew_for, first_state
from fl_sim.errors import RequestError
from fl_sim.experiment import Experiment

Part = Literal["training", "aggregation", "evaluation", "metrics", "checkpoint", "rest"]
PARTS: tuple[Part, ...] = get_args(Part)
TOP = 12  # functions that are named


class Spent(NamedTuple):
    """Seconds a round of one part: by the clock, and of this process's own work.

    What is left of the first is waiting: for workers, for the disk, or for a core.
    """

    part: Part
    wall: float
    cpu: float


class Function(NamedTuple):
    """What a function cost, itself and with all that it called, in seconds a round."""

    name: str
    calls: float
    own: float
    total: float


@dataclass(frozen=True)
class Profile:
    """Where the time of a round went."""

    rounds: int
    parts: list[Spent]
    functions: list[Function]


@dataclass
class Clock:
    """Adds up seconds by part; what a part does inside another one counts for itself alone."""

    wall: dict[Part, float] = field(default_factory=lambda: defaultdict(float))
    cpu: dict[Part, float] = field(default_factory=lambda: defaultdict(float))
    running: list[Part] = field(default_factory=list)
    last: tuple[float, float] = (0.0, 0.0)

    def _turn(self) -> None:
        now = perf_counter(), process_time()
        if self.running:
            self.wall[self.running[-1]] += now[0] - self.last[0]
            self.cpu[self.running[-1]] += now[1] - self.last[1]
        self.last = now

    def go_on_as(self, part: Part) -> None:
        """Count the rest of the block at hand for another part."""
        self._turn()
        self.running[-1] = part

    @contextmanager
    def timed(self, part: Part) -> Iterator[None]:
        """Count the block for `part`."""
        self._turn()
        self.running.append(part)
        try:
            yield
        finally:
            self._turn()
            self.running.pop()


class TimedCrew(Crew):
    """A crew, and how long it takes."""

    def __init__(self, crew: Crew, clock: Clock) -> None:
        """Time `crew`."""
        self.crew, self.clock = crew, clock

    def train(self, order: Order, chunks: list[Chunk]) -> Iterator[tuple[int, Done]]:
        """Time each wait for a chunk; what the loop does with it is aggregation."""
        arriving = iter(self.crew.train(order, chunks))
        while True:
            with self.clock.timed("training"):
                came = next(arriving, None)
            if came is None:
                return
            with self.clock.timed("aggregation"):
                yield came

    def scores(
        self, values: Float[Tensor, " p"], buffers: Tensors, wanted: dict[str, Tensor]
    ) -> dict[str, Float[Tensor, "n y"]]:
        """Time the scoring; what is done with the scores afterwards is metrics."""
        with self.clock.timed("evaluation"):
            return self.crew.scores(values, buffers, wanted)

    def used(self) -> Used:
        """Return what the crew that is timed has used."""
        return self.crew.used()


class TimedServer(Server):
    """A server's side, and how long it takes."""

    def __init__(self, server: Server, clock: Clock) -> None:
        """Time `server`."""
        self.server, self.clock = server, clock

    def plan(self, order: Order, senders: Senders, weights: Float[Tensor, " n"]) -> Plan:
        """Time the plan."""
        with self.clock.timed("aggregation"):
            return self.server.plan(order, senders, weights)

    def advance(
        self, plan: Plan, collected: Collected, senders: Senders
    ) -> tuple[Float[Tensor, " p"], Decision | None]:
        """Time the rule; what the loop does after it is measuring."""
        with self.clock.timed("aggregation"):
            step = self.server.advance(plan, collected, senders)
        self.clock.go_on_as("metrics")
        return step

    def known_rule(self) -> KnownRule:
        """Return what attackers may see of the server that is timed."""
        return self.server.known_rule()

    def remembered(self) -> Any:
        """Return what the server remembers."""
        return self.server.remembered()

    def remember(self, content: Any) -> None:
        """Put it back."""
        self.server.remember(content)


def profile(
    experiment: Experiment, count: int, engine: Engine, workers: int, cohort: CohortMode
) -> Profile:
    """Time `count` rounds after a first one, then watch as many with Python's profiler.

    The two are apart, since a profiler makes everything slower, and small functions most.

    Raises:
        RequestError: for a wrong experiment, or an engine whose clients are out of reach.
    """
    if engine == "flower":
        raise RequestError("profile takes the engines local and ray; got flower")
    experiment = replace(experiment, rounds=1 + 2 * count)
    feasible.check(experiment, cohort)
    process.settle()
    ours = federation(experiment.to_json())
    clock, state = Clock(), first_state(ours)
    state.cohort = choose(cohort, ours)
    state.server = TimedServer(state.server, clock)
    crew = TimedCrew(crew_for(ours, engine, workers, None), clock)
    with tempfile.TemporaryDirectory() as folder:
        playing = _played(ours, state, crew, clock, Path(folder))
        next(playing)
        clock.wall.clear()
        clock.cpu.clear()
        for _ in range(count):
            next(playing)
        spent = [Spent(p, clock.wall[p] / count, clock.cpu[p] / count) for p in PARTS]
        watch = cProfile.Profile()
        watch.enable()
        for _ in range(count):
            next(playing)
        watch.disable()
    return Profile(count, spent, _functions(pstats.Stats(watch), count))


def _played(
    ours: Federation, state: State, crew: Crew, clock: Clock, folder: Path
) -> Iterator[None]:
    """Run the rounds as a session does, and stop after each."""
    run, log = ours.experiment.to_json(), RunLog(folder / "log.jsonl")
    playing = rounds(ours, state, crew)
    while True:
        with clock.timed("rest"):
            played = next(playing, None)
        if played is None:
            return
        with clock.timed("checkpoint"):
            log.append(played.rows, played.failures)
            save_state(folder, state, run, log.mark)
        yield


def _functions(stats: Any, count: int) -> list[Function]:
    """Return the functions that cost most themselves."""
    found = []
    for (file, line, name), (_, calls, own, total, _) in stats.stats.items():
        where = name if file == "~" else f"{Path(file).name}:{line} {name}"
        found.append(Function(where, calls / count, own / count, total / count))
    return sorted(found, key=lambda function: -function.own)[:TOP]
