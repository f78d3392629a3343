"""fl_sim itself, through its public function."""

import tempfile
from typing import Any

from benchmarks.device import find_device
from benchmarks.pacer import Pacer
from fl_sim import run as run_experiment
from fl_sim import sweep
from fl_sim.experiment import Experiment


def run(
    pacer: Pacer,
    experiment: str,
    engine: str,
    workers: int = 1,
    precision: str = "float32",
    deterministic: bool = True,
    **_: Any,
) -> None:
    """Run the rounds of an experiment, one per turn, with all results."""
    options: Any = {
        "engine": engine,
        "workers": workers,
        "precision": precision,
        "device": str(find_device()),
        "deterministic": deterministic,
    }
    pacer.wait()
    with tempfile.TemporaryDirectory() as out:
        done = run_experiment(
            Experiment.from_json(experiment), out=out, listen=lambda _: pacer.wait(), **options
        )
    require_complete(done)


def run_whole(pacer: Pacer, experiment: str, engine: str, workers: int = 1, **_: Any) -> None:
    """Run an experiment from start to finish, results written, in one turn."""
    options: Any = {"engine": engine, "workers": workers}
    pacer.wait()
    with tempfile.TemporaryDirectory() as out:
        require_complete(run_experiment(Experiment.from_json(experiment), out=out, **options))
    pacer.wait()


def run_cells(pacer: Pacer, experiment: str, engine: str, workers: int = 1, **_: Any) -> None:
    """Sweep cells of one round each; a turn is one cell, from the end of the one before."""
    options: Any = {"engine": engine, "workers": workers}
    pacer.wait()
    with tempfile.TemporaryDirectory() as out:
        sweep(
            Experiment.from_json(experiment),
            {},
            seeds=range(100),
            out=out,
            listen=lambda _: pacer.wait(),
            **options,
        )


def require_complete(results: Any) -> None:
    """Raise an error if a run did not finish."""
    if not results.complete:
        raise RuntimeError("the run did not finish")
