"""Noise that each owner makes alone, made in parallel before the runs that need it."""

from functools import partial
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

from fl_sim.core import process
from fl_sim.core.cache import digest
from fl_sim.core.forecast import Pace
from fl_sim.core.pass_counter import count_passes
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import load_experiment_dataset
from fl_sim.federation.pool import list_noise_parts, make_noise
from fl_sim.runs.processes import run_jobs
from fl_sim.runs.progress import Listener, Progress, report_passes
from fl_sim.runs.run_options import RunOptions


class _Job(NamedTuple):
    """A part of the noise of an experiment, by its number, and the passes that it takes."""

    experiment: Experiment
    number: int
    passes: int


def make_owner_noise(
    experiments: list[Experiment], options: RunOptions, listen: Listener = lambda progress: None
) -> None:
    """Make the noise of all owners and store it in the cache, unless there is only one.

    The run itself finds the same bits there. An error is left to the run, which records it.

    Args:
        experiments: Experiments whose noise is not shared.
        options: Options of the runs; with fewer than two workers, nothing is made.
        listen: Called while noise is made.
    """
    if options.workers < 2:
        return
    jobs: dict[Any, _Job] = {}  # by everything that the noise depends on
    for experiment in experiments:
        key = (experiment.data, experiment.partition, experiment.seed)
        dataset = load_experiment_dataset(experiment)
        for number, part in enumerate(list_noise_parts(experiment, dataset)):
            if part.owner:
                own = (part.protection, part.owner, digest(part.rows))
                jobs.setdefault(
                    (*key, *own), _Job(experiment, number, part.predict_passes(dataset))
                )
    if len(jobs) > 1:
        task, devices = partial(_make_noise, options), options.find_devices()
        todo, whole = list(jobs.values()), _Whole(list(jobs.values()), listen)
        run_jobs(
            task,
            todo,
            options.workers,
            devices=devices,
            listen=whole.add,
            on_job_end=whole.finish,
        )


class _Whole:
    """Reports the passes of all jobs together."""

    def __init__(self, jobs: list[_Job], listen: Listener) -> None:
        self.total, self.listen, self.pace = sum(job.passes for job in jobs), listen, Pace()
        self.label = f"noise of {len(jobs)} owners"
        self.made: dict[str, int] = {}  # passes by job

    def add(self, progress: Progress) -> None:
        """Take a report of a job."""
        self._report(progress.key, progress.noise_passes)

    def finish(self, job: _Job, error: str) -> None:
        """Take the end of a job, also of one whose noise was there or stopped early."""
        self._report(_name(job), job.passes)

    def _report(self, name: str, passes: int) -> None:
        self.made[name] = passes
        made = sum(self.made.values())
        left = self.pace.estimate_seconds_left(made, self.total)
        noise = {"noise_passes": made, "noise_total": self.total}
        self.listen(Progress("noise", self.label, 0, 1, 0, nan, seconds_left=left, **noise))


def _name(job: _Job) -> str:
    return f"{job.experiment.run_id} {job.experiment.seed} {job.number}"


def _make_noise(options: RunOptions, job: _Job, listen: Listener) -> None:
    experiment = job.experiment
    process.configure_process()
    report = report_passes(experiment, Path(_name(job)), "", listen)
    with options.use_device(), count_passes(report):
        make_noise(experiment, load_experiment_dataset(experiment), job.number)
