"""Noise that each owner makes alone, made in parallel before the runs that need it."""

from functools import partial
from typing import Any

from fl_sim.core import process
from fl_sim.core.cache import digest
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import load_experiment_dataset
from fl_sim.federation.pool import list_noise_parts, make_noise
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
        key = (experiment.data, experiment.partition, experiment.seed)
        parts = list_noise_parts(experiment, load_experiment_dataset(experiment))
        for number, part in enumerate(parts):
            own = (part.protection, part.owner, digest(part.rows))
            jobs.setdefault((*key, *own), (experiment, number))
    if len(jobs) > 1:
        task, devices = partial(_make_noise, options), options.find_devices()
        run_jobs(task, list(jobs.values()), options.workers, devices=devices)


def _make_noise(options: RunOptions, job: tuple[Experiment, int], listen: Listener) -> None:
    experiment, number = job
    process.configure_process()
    with options.use_device():
        make_noise(experiment, load_experiment_dataset(experiment), number)
