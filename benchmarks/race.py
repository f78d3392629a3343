"""Several engines at the same work, taking turns: a round each, one after the other.

While one works, all others are stopped, daemons included. So each has the machine to itself,
and what drifts (clock rates, neighbours) hits all alike.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tree import Tree

LIMIT = 900.0  # seconds that a single turn may take
Say = Callable[[str], None]


class Sample(NamedTuple):
    """What one turn cost the whole process tree."""

    cpu_seconds: float
    wall_seconds: float


class ChildError(RuntimeError):
    """A child ended before its time, or hangs."""


@dataclass(frozen=True)
class Job:
    """What a child is to do: a function such as `benchmarks.engines.floor:run`, its arguments,
    and how many of its rounds make a turn.
    """

    call: str
    arguments: dict[str, Any] = field(default_factory=dict)
    rounds_a_turn: int = 1


class Entrant:
    """An engine in a process of its own."""

    def __init__(self, job: Job) -> None:
        """Start the process; it prepares itself and then waits."""
        self.folder = Path(tempfile.mkdtemp(prefix="flb-"))
        self.log = self.folder / "log"
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        text = json.dumps(asdict(job))
        command = [sys.executable, "-m", "benchmarks.child", str(orders), str(answers), text]
        self.started = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                pass_fds=(orders, answers),
                env=self._environment(),
                start_new_session=True,  # an interrupt is for the parent, which ends its children
            )
        os.close(orders)
        os.close(answers)
        self.tree = Tree(self.process.pid)
        self.spent = 0.0

    def prepare(self) -> None:
        """Wait until the first round can begin, and stop it there."""
        self._hear("ready")
        self.tree.pause()

    def begin(self) -> None:
        """Forget what was before the turns that count."""
        self.spent, self.tree.peak_mib = 0.0, 0.0

    def turn(self) -> Sample:
        """Let it do one round, alone on the machine."""
        self.tree.resume()
        before = self.tree.cpu_seconds()
        started = time.perf_counter()
        sample = self._go(before, started)
        self.tree.pause()
        return sample

    def cold_turn(self) -> Sample:
        """Let it do its first round; the cost counts from the start of the process."""
        with self.tree.watched():
            self._hear("ready")
        return self._go(0.0, self.started)

    def stop(self) -> None:
        """End the process and all that it started."""
        self.tree.kill()
        self.process.wait()
        os.close(self._orders)
        os.close(self._answers)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _go(self, cpu: float, started: float) -> Sample:
        with self.tree.watched():
            os.write(self._orders, b"go\n")
            self._hear("done")
            wall = time.perf_counter() - started
        self.spent += wall
        return Sample(self.tree.cpu_seconds() - cpu, wall)

    def _hear(self, expected: str) -> None:
        waiting, _, _ = select.select([self._answers], [], [], LIMIT)
        answer = os.read(self._answers, 64).decode().strip() if waiting else "no answer in time"
        if answer != expected:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise ChildError((lines or [answer or "it ended without a word"])[-1])

    def _environment(self) -> dict[str, str]:
        """One thread of everything, and a temporary folder that goes away with the child."""
        root = str(Path(__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        own = {"TMPDIR": str(self.folder), "RAY_TMPDIR": str(self.folder)}
        return {**os.environ, **threads, **own, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class Outcome:
    """What an engine cost at a workload."""

    samples: list[Sample]
    peak_mib: float


def race(
    jobs: dict[str, Job], runs: int, warm_up: int, budget: float, say: Say
) -> dict[str, Outcome]:
    """Let engines take turns, `warm_up` that do not count and then `runs` that do.

    Args:
        jobs: by engine.
        runs: turns of each that count.
        warm_up: turns of each before them.
        budget: seconds after which an engine stops once it has one turn that counts.
        say: told who could not take part, and why.
    """
    samples: dict[str, list[Sample]] = {engine: [] for engine in jobs}
    with ExitStack() as stack:
        entrants: dict[str, Entrant] = {}
        for engine, job in jobs.items():
            entrants[engine] = Entrant(job)
            stack.callback(entrants[engine].stop)
            _try(say, entrants, engine, Entrant.prepare)
        for number in range(warm_up + runs):
            for engine in list(entrants):
                if number == warm_up:
                    entrants[engine].begin()
                if entrants[engine].spent > budget and samples[engine]:
                    continue
                sample = _try(say, entrants, engine, Entrant.turn)
                if sample is not None and number >= warm_up:
                    samples[engine].append(sample)
        return {e: Outcome(samples[e], entrant.tree.peak_mib) for e, entrant in entrants.items()}


def cold_race(jobs: dict[str, Job], runs: int, budget: float, say: Say) -> dict[str, Outcome]:
    """Start engines anew for every turn: what counts is from the start to the first round."""
    samples: dict[str, list[Sample]] = {engine: [] for engine in jobs}
    peaks = dict.fromkeys(jobs, 0.0)
    out: set[str] = set()
    for _ in range(runs):
        for engine in [engine for engine in jobs if engine not in out]:
            entrant = Entrant(jobs[engine])
            try:
                samples[engine].append(entrant.cold_turn())
            except ChildError as error:
                say(f"{engine} left out: {error}")
                out.add(engine)
            finally:
                peaks[engine] = max(peaks[engine], entrant.tree.peak_mib)
                entrant.stop()
            if sum(sample.wall_seconds for sample in samples[engine]) > budget:
                out.add(engine)
    return {engine: Outcome(samples[engine], peaks[engine]) for engine in jobs}


def _try(say: Say, entrants: dict[str, Entrant], engine: str, act: Callable[[Entrant], Any]) -> Any:
    """Let an engine act; where it fails, say so and leave it out from now on."""
    try:
        return act(entrants[engine])
    except ChildError as error:
        say(f"{engine} left out: {error}")
        entrants.pop(engine)
        return None
