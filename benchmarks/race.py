"""Measurement of several engines in turns of one round each.

While one engine works, all others are stopped, including their daemons. Each has the machine to
itself, and drift (clock rates, other load) affects all alike.
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

from benchmarks.tree import ProcessTree

LIMIT = 900.0  # seconds, the longest turn
Log = Callable[[str], None]


class Sample(NamedTuple):
    """Cost of one turn of the whole process tree."""

    cpu_seconds: float
    wall_seconds: float


class ChildError(RuntimeError):
    """Raised if a child process ends early or hangs."""


@dataclass(frozen=True)
class Job:
    """Job of a child process.

    Attributes:
        call: Function to call, such as `benchmarks.engines.floor:run`.
        arguments: Arguments of the function.
        rounds_per_turn: Number of rounds per turn.
    """

    call: str
    arguments: dict[str, Any] = field(default_factory=dict)
    rounds_per_turn: int = 1


class EngineProcess:
    """An engine in a process of its own."""

    def __init__(self, job: Job) -> None:
        """Start the process, which prepares its first round and then waits."""
        self.folder = Path(tempfile.mkdtemp(prefix="flb-"))
        self.log = self.folder / "log"
        commands, self._commands = os.pipe()
        self._replies, replies = os.pipe()
        text = json.dumps(asdict(job))
        command = [sys.executable, "-m", "benchmarks.child", str(commands), str(replies), text]
        self.started = time.perf_counter()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                pass_fds=(commands, replies),
                env=self._make_environment(),
                start_new_session=True,  # interrupts go to the parent, which ends its children
            )
        os.close(commands)
        os.close(replies)
        self.tree = ProcessTree(self.process.pid)
        self.spent = 0.0

    def prepare(self) -> None:
        """Wait until the first round can start, and pause the process."""
        self._wait_for("ready")
        self.tree.pause()

    def reset(self) -> None:
        """Reset time and memory before the turns that are measured."""
        self.spent, self.tree.peak_mib = 0.0, 0.0

    def run_turn(self) -> Sample:
        """Run one turn, alone on the machine, and return its cost."""
        self.tree.resume()
        before = self.tree.cpu_seconds()
        started = time.perf_counter()
        sample = self._measure_turn(before, started)
        self.tree.pause()
        return sample

    def run_cold_turn(self) -> Sample:
        """Run the first turn, and return the cost since the start of the process."""
        with self.tree.watch_memory():
            self._wait_for("ready")
        return self._measure_turn(0.0, self.started)

    def stop(self) -> None:
        """End the process and all of its descendants."""
        self.tree.kill()
        self.process.wait()
        os.close(self._commands)
        os.close(self._replies)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _measure_turn(self, cpu: float, started: float) -> Sample:
        with self.tree.watch_memory():
            os.write(self._commands, b"go\n")
            self._wait_for("done")
            wall = time.perf_counter() - started
        self.spent += wall
        return Sample(self.tree.cpu_seconds() - cpu, wall)

    def _wait_for(self, expected: str) -> None:
        waiting, _, _ = select.select([self._replies], [], [], LIMIT)
        answer = os.read(self._replies, 64).decode().strip() if waiting else "no answer in time"
        if answer != expected:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise ChildError((lines or [answer or "it ended without a word"])[-1])

    def _make_environment(self) -> dict[str, str]:
        """Return an environment with one thread per library and a temporary folder of the child."""
        root = str(Path(__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        folders = {"TMPDIR": str(self.folder), "RAY_TMPDIR": str(self.folder)}
        return {**os.environ, **threads, **folders, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass(frozen=True)
class EngineCost:
    """Cost of an engine in a case."""

    samples: list[Sample]
    peak_mib: float


def race(
    jobs: dict[str, Job], runs: int, warm_up: int, budget: float, log: Log
) -> dict[str, EngineCost]:
    """Run `warm_up` turns that are not measured and `runs` that are, engine by engine.

    Args:
        jobs: Job of each engine.
        runs: Number of measured turns per engine.
        warm_up: Number of turns before them.
        budget: Seconds after which an engine stops, once one turn is measured.
        log: Function that is called with a line about each engine left out.
    """
    samples: dict[str, list[Sample]] = {engine: [] for engine in jobs}
    with ExitStack() as stack:
        processes: dict[str, EngineProcess] = {}
        for engine, job in jobs.items():
            processes[engine] = EngineProcess(job)
            stack.callback(processes[engine].stop)
            _try(log, processes, engine, EngineProcess.prepare)
        for number in range(warm_up + runs):
            for engine in list(processes):
                if number == warm_up:
                    processes[engine].reset()
                if processes[engine].spent > budget and samples[engine]:
                    continue
                sample = _try(log, processes, engine, EngineProcess.run_turn)
                if sample is not None and number >= warm_up:
                    samples[engine].append(sample)
        costs = processes.items()
        return {name: EngineCost(samples[name], process.tree.peak_mib) for name, process in costs}


def race_cold(jobs: dict[str, Job], runs: int, budget: float, log: Log) -> dict[str, EngineCost]:
    """Start each engine anew for every turn, and measure from its start to the end of round one."""
    samples: dict[str, list[Sample]] = {engine: [] for engine in jobs}
    peaks = dict.fromkeys(jobs, 0.0)
    left_out: set[str] = set()
    for _ in range(runs):
        for engine in [engine for engine in jobs if engine not in left_out]:
            process = EngineProcess(jobs[engine])
            try:
                samples[engine].append(process.run_cold_turn())
            except ChildError as error:
                log(f"{engine} left out: {error}")
                left_out.add(engine)
            finally:
                peaks[engine] = max(peaks[engine], process.tree.peak_mib)
                process.stop()
            if sum(sample.wall_seconds for sample in samples[engine]) > budget:
                left_out.add(engine)
    return {engine: EngineCost(samples[engine], peaks[engine]) for engine in jobs}


def _try(
    log: Log, processes: dict[str, EngineProcess], engine: str, act: Callable[[EngineProcess], Any]
) -> Any:
    """Call a method of an engine; if it fails, log the error and leave the engine out."""
    try:
        return act(processes[engine])
    except ChildError as error:
        log(f"{engine} left out: {error}")
        processes.pop(engine)
        return None
