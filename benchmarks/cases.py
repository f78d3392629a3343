"""Cases of a workload: a job for each engine, and settings of the measurement."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.race import Job
from fl_sim.experiment import Evaluation, Experiment

EXACT = ("floor", "optimised", "local", "ray", "flower", "pfl")  # the same arithmetic
ENGINES = (*EXACT, "bf16")  # fl_sim on `local` in bfloat16
GPU = ("floor", "local", "nondeterministic", "bf16", "flower", "pfl")
OURS = ("local", "ray", "bf16", "nondeterministic")
WORKERS = 2  # workers of ray and flower
ENDLESS = 10_000  # rounds of an experiment that the parent stops


def prepare_nothing() -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Case:
    """A case of a workload, which gives one table row per engine.

    Attributes:
        workload: Name of the workload: W0 to W8, or `start`.
        name: Name of the case within the workload.
        jobs: Job of each engine.
        warm_up: Number of turns that are not measured.
        budget: Seconds after which an engine stops early.
        cold: Whether a turn is a whole process, from its start.
        prepare: Preparation before any engine starts.
        whole: Number of turns in a whole job, of which a turn measures a part.
    """

    workload: str
    name: str
    jobs: dict[str, Job]
    warm_up: int = 1
    budget: float = 150.0
    cold: bool = False
    prepare: Callable[[], None] = prepare_nothing
    whole: float = 1.0


def make_round_jobs(experiment: Experiment, engines: tuple[str, ...] = EXACT) -> dict[str, Job]:
    """Return jobs whose turns are rounds of the same experiment, without evaluation."""
    off = Evaluation(every=ENDLESS)
    text = replace(experiment, rounds=ENDLESS, evaluation=off).to_json()
    return {engine: make_job("run", engine, text) for engine in engines}


def make_job(function: str, engine: str, experiment: str, **arguments: Any) -> Job:
    """Return the job of an engine for an experiment."""
    module = "ours" if engine in OURS else engine
    all_arguments: dict[str, Any] = {"experiment": experiment, **arguments}
    if module == "ours":
        all_arguments["engine"] = "ray" if engine == "ray" else "local"
        all_arguments["deterministic"] = engine != "nondeterministic"
        all_arguments["precision"] = "bf16" if engine == "bf16" else "float32"
    if engine in ("ray", "flower"):
        all_arguments["workers"] = WORKERS
    return Job(f"benchmarks.engines.{module}:{function}", all_arguments)
