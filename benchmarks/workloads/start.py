"""Start-up: from the start of a process to the end of its first round, and the next cell."""

from dataclasses import replace

from benchmarks.cases import Case, make_job, make_round_jobs
from benchmarks.workloads.w1_small_networks import EXPERIMENT
from fl_sim.experiment import Data, Model


def list_cases(full: bool) -> list[Case]:
    """Return the first round after a start, and another cell of a sweep."""
    small = replace(
        EXPERIMENT,
        name="start",
        data=Data("fashion_mnist", 100, num_samples=6000, num_test=10, held_out=0.0),
        model=Model("linear"),
        rounds=1,
    )
    first = make_round_jobs(small, ("local", "ray", "flower"))
    cell = {engine: make_job("run_cells", engine, small.to_json()) for engine in ("local", "ray")}
    return [
        Case("start", "first round", first, cold=True, budget=45.0),
        Case("start", "second sweep cell", cell),
    ]
