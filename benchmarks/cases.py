"""A case of a workload: which engines do what, and how often."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.race import Job
from fl_sim.experiment import Evaluation, Experiment

ENGINES = ("floor", "optimised", "local", "ray", "flower", "pfl")
WORKERS = 2  # of ray and flower
ENDLESS = 10_000  # rounds of an experiment that is stopped from outside


def prepare_nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Case:
    """One row a engine of the table.

    Attributes:
        workload: W0 to W6, or `start`.
        name: what tells it from the workload's other cases.
        jobs: by engine.
        warm_up: turns that do not count.
        budget: seconds of an engine's turns after which it stops early.
        cold: a turn is a whole process, from its start.
        prepare: what has to be done before any engine starts.
    """

    workload: str
    name: str
    jobs: dict[str, Job]
    warm_up: int = 1
    budget: float = 150.0
    cold: bool = False
    prepare: Callable[[], None] = prepare_nothing


def make_round_jobs(experiment: Experiment, engines: tuple[str, ...] = ENGINES) -> dict[str, Job]:
    """Return jobs whose turns are rounds of the same experiment, without evaluation."""
    off = Evaluation(every=ENDLESS)
    text = replace(experiment, rounds=ENDLESS, evaluation=off).to_json()
    return {engine: make_job("run", engine, text) for engine in engines}


def make_job(function: str, engine: str, experiment: str, **arguments: Any) -> Job:
    """Return what an engine is to do with an experiment."""
    module = "ours" if engine in ("local", "ray") else engine
    all_arguments: dict[str, Any] = {"experiment": experiment, **arguments}
    if module == "ours":
        all_arguments["engine"] = engine
    if engine in ("ray", "flower"):
        all_arguments["workers"] = WORKERS
    return Job(f"benchmarks.engines.{module}:{function}", all_arguments)
