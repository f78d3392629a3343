"""Noise that every owner makes for itself is made side by side, before the runs that need it."""

from typing import Any, NamedTuple

from fl_sim.core import process
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import load_experiment_dataset
from fl_sim.federation.pool import list_noise_owners, make_noise
from fl_sim.runs.processes import run_jobs
from fl_sim.runs.progress import Listener


class OwnerNoise(NamedTuple):
    """One owner of one experiment."""

    experiment: Experiment
    owner: int


def make_owner_noise(experiments: list[Experiment], workers: int) -> None:
    """Make the noise of all owners and leave it in the cache; a single owner's can wait.

    Same bits as in the run itself, which finds them there. What cannot be made is left for the
    run, where it is recorded.
    """
    if workers < 2:
        return
    jobs: dict[Any, OwnerNoise] = {}  # by all that the noise depends on
    for experiment in experiments:
        if experiment.layout.provenance != "shared":
            what = (experiment.protection, experiment.data, experiment.partition, experiment.seed)
            whose = (experiment.layout.provenance, experiment.layout.num_owners)
            for owner in list_noise_owners(experiment, load_experiment_dataset(experiment)):
                jobs.setdefault((*what, *whose, owner), OwnerNoise(experiment, owner))
    if len(jobs) > 1:
        # What goes wrong here goes wrong in the run, which says so.
        run_jobs(_make_noise, list(jobs.values()), workers)


def _make_noise(job: OwnerNoise, listen: Listener) -> None:
    process.configure_process()
    make_noise(job.experiment, load_experiment_dataset(job.experiment), job.owner)
