"""Noise that each owner makes alone, made in parallel before the runs that need it."""

from typing import Any, NamedTuple

from fl_sim.core import process
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import load_experiment_dataset
from fl_sim.federation.pool import list_noise_owners, make_noise
from fl_sim.runs.processes import run_jobs
from fl_sim.runs.progress import Listener


class OwnerNoise(NamedTuple):
    """The noise of one owner in one experiment."""

    experiment: Experiment
    owner: int


def make_owner_noise(experiments: list[Experiment], workers: int) -> None:
    """Make the noise of all owners and store it in the cache, unless there is only one.

    The run itself finds the same bits there. An error is left to the run, which records it.
    """
    if workers < 2:
        return
    jobs: dict[Any, OwnerNoise] = {}  # by everything that the noise depends on
    for experiment in experiments:
        if experiment.layout.provenance != "shared":
            content = (
                experiment.protection,
                experiment.data,
                experiment.partition,
                experiment.seed,
            )
            ownership = (experiment.layout.provenance, experiment.layout.num_owners)
            for owner in list_noise_owners(experiment, load_experiment_dataset(experiment)):
                jobs.setdefault((*content, *ownership, owner), OwnerNoise(experiment, owner))
    if len(jobs) > 1:
        run_jobs(_make_noise, list(jobs.values()), workers)


def _make_noise(job: OwnerNoise, listen: Listener) -> None:
    process.configure_process()
    make_noise(job.experiment, load_experiment_dataset(job.experiment), job.owner)
