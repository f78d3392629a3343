"""Tests that engines take turns in processes of their own, and that failing ones are left out."""

import math
from pathlib import Path

import pytest

from benchmarks.race import EngineProcess, Job, Sample, race, race_cold

pytestmark = pytest.mark.slow  # each engine is a process

MODULE = """
import os, time

def mark(pacer, path, name, seconds=0.0, broken=False):
    while True:
        pacer.wait()
        if broken:
            raise RuntimeError(f"{name} is broken")
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        with open(path, "a") as file:
            file.write(name)
"""


@pytest.fixture
def diary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file in which the jobs of `mark` write their names."""
    (tmp_path / "jobs_of_a_test.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "diary"
    path.touch()
    return path


def mark(diary: Path, name: str, rounds_per_turn: int = 1, **arguments: object) -> Job:
    return Job(
        "jobs_of_a_test:mark", {"path": str(diary), "name": name, **arguments}, rounds_per_turn
    )


def test_engines_go_in_turns_and_the_warm_up_does_not_count(diary: Path) -> None:
    lines: list[str] = []
    jobs = {"floor": mark(diary, "f"), "local": mark(diary, "l", rounds_per_turn=2)}
    outcomes = race(jobs, runs=3, warm_up=1, budget=60.0, log=lines.append)
    assert diary.read_text() == "fll" * 4
    assert [len(outcomes[engine].samples) for engine in jobs] == [3, 3]
    assert all(outcome.peak_mib > 1 for outcome in outcomes.values())
    assert lines == []


def test_a_turn_costs_its_cpu_time(diary: Path) -> None:
    jobs = {"floor": mark(diary, "f", seconds=0.1)}
    (sample,) = race(jobs, runs=1, warm_up=1, budget=60.0, log=print)["floor"].samples
    assert 0.1 <= sample.cpu_seconds < 0.15
    assert sample.wall_seconds >= 0.1


def test_failing_engines_are_named_and_left_out(diary: Path) -> None:
    lines: list[str] = []
    jobs = {"pfl": mark(diary, "p", broken=True), "local": mark(diary, "l")}
    outcomes = race(jobs, runs=2, warm_up=1, budget=60.0, log=lines.append)
    assert lines == ["pfl left out: RuntimeError: p is broken"]
    assert list(outcomes) == ["local"]
    assert diary.read_text() == "lll"


@pytest.mark.parametrize(("budget", "runs"), [(0.0, 1), (math.inf, 4)])
def test_an_engine_over_its_budget_stops_after_one_run(
    diary: Path, budget: float, runs: int
) -> None:
    jobs = {"flower": mark(diary, "F"), "local": mark(diary, "l")}
    outcomes = race(jobs, runs=4, warm_up=0, budget=budget, log=print)
    assert [len(outcomes[engine].samples) for engine in jobs] == [runs, runs]


def test_the_budget_stops_one_engine_alone(diary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EngineProcess._measure_turn

    def measure(process: EngineProcess, cpu: float, started: float) -> Sample:
        sample = whole(process, cpu, started)
        process.spent = 10.0 if "F" in str(process.process.args) else 1.0  # whatever the clock says
        return sample

    monkeypatch.setattr(EngineProcess, "_measure_turn", measure)
    jobs = {"flower": mark(diary, "F"), "local": mark(diary, "l")}
    outcomes = race(jobs, runs=4, warm_up=0, budget=5.0, log=print)
    assert [len(outcomes[engine].samples) for engine in jobs] == [1, 4]


def test_a_cold_turn_starts_a_new_process(diary: Path) -> None:
    lines: list[str] = []
    jobs = {"local": mark(diary, "l"), "pfl": mark(diary, "p", broken=True)}
    outcomes = race_cold(jobs, runs=2, budget=60.0, log=lines.append)
    assert diary.read_text() == "ll"
    assert min(sample.cpu_seconds for sample in outcomes["local"].samples) > 0.01
    assert outcomes["pfl"].samples == []
    assert lines == ["pfl left out: RuntimeError: p is broken"]
