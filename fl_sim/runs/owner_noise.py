"""Noise that each owner makes alone, made in parallel before the runs that need it."""

from functools import partial
from typing import Any

from fl_sim.core import process
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import load_experiment_dataset
from fl_sim.federation.pool import list_noise_owners, make_noise
from fl_sim.runs.processes import run_jobs
from fl_sim.runs.progress import Listener
from fl_sim.runs.run_options import RunOptions


def make_owner_noise(experiments: list[Experiment], options: RunOptions) -> None:
    """Make the noise of all owners and store it in the cache, unless there is only one.

    The run itself finds the same bits there. An error is left to the run, which records it.

    Args:
        experiments: Experiments whose noise is not shared.
        options: Options of the runs; with fewer than two workers, nothing is made.
    """
    if options.workers < 2:
        return
    jobs: dict[Any, tuple[Experiment, int]] = {}  # by everything that the noise depends on
    for experiment in experiments:
        layout = experiment.layout
        key = (experiment.protection, experiment.data, experiment.partition, experiment.seed)
        for owner in list_noise_owners(experiment, load_experiment_dataset(experiment)):
            ownership = (layout.provenance, layout.num_owners, owner)
            jobs.setdefault((*key, *ownership), (experiment, owner))
    if len(jobs) > 1:
        run_jobs(partial(_make_noise, options), list(jobs.values()), options.workers)


def _make_noise(options: RunOptions, job: tuple[Experiment, int], listen: Listener) -> None:
    experiment, owner = job
    process.configure_process()
    with options.use_device():
        make_noise(experiment, load_experiment_dataset(experiment), owner)
