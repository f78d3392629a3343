"""Runs and sweeps: each distinct run once, side by side where that helps."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from flwr.clientapp import ClientApp

from fl_sim import own_noise, trackers
from fl_sim.cache import made_folder
from fl_sim.cells import Cell, cells_of
from fl_sim.engine import compat, feasible, interrupts
from fl_sim.engine.cohort_choice import CohortMode
from fl_sim.engine.faults import NO_FAULTS, Faults
from fl_sim.engine.federation import fingerprint_of
from fl_sim.engine.progress import Listener, Progress
from fl_sim.engine.session import Engine, Session, finished_before, refuse_links, run_session
from fl_sim.engine.variant import made_with
from fl_sim.errors import RequestError
from fl_sim.experiment import Axes, Experiment
from fl_sim.locks import held
from fl_sim.results import Results, load_results, run_folder
from fl_sim.summary import write_summary
from fl_sim.workers import run_jobs


@dataclass(frozen=True)
class Options:
    """How to run; `client_app` and `faults` change the numbers, and with them the runs' ids.

    Attributes:
        out: folder of all results.
        engine: `local`, in this process; `ray`, on warm workers of Ray; or `flower`, Flower's
            simulation engine.
        workers: processes that work at once: runs side by side where there are several, on
            `local` and `ray`; else the clients of a run, on `ray`, and always on `flower`.
        resume: keep finished runs, go on with broken ones.
        controls: also run what protection is measured against (A_all, A_clean).
        client_app: a Flower ClientApp that stands in for the experiment's clients.
        cohort: whether small models are trained many at once; `auto` measures what is faster.
        faults: failures to inject, for tests.
        ray_address: of a Ray cluster that is running already.
        trackers: names of tools that follow each run, such as `tensorboard`.
        wait: where another process writes into the experiment's folder, wait for it.
    """

    out: Path = Path("runs")
    engine: Engine = "local"
    workers: int = 1
    resume: bool = False
    controls: bool = True
    client_app: ClientApp | None = None
    cohort: CohortMode = "auto"
    faults: Faults = NO_FAULTS
    ray_address: str | None = None
    trackers: tuple[str, ...] = ()
    wait: bool = False

    def __post_init__(self) -> None:
        trackers.chosen(self.trackers)
        if self.engine == "flower" and self.faults != NO_FAULTS:
            raise RequestError("--inject works on the engines local and ray; got flower")
        if self.client_app is not None and self.faults != NO_FAULTS:
            raise RequestError("--inject works on the experiment's clients, not on a ClientApp")
        if self.engine != "ray" and self.ray_address is not None:
            raise RequestError(f"--ray-address belongs to --engine ray; got {self.engine}")


def silent(progress: Progress) -> None:
    """Listen, and say nothing."""


def run(
    experiment: Experiment,
    seeds: Iterable[int] | None = None,
    *,
    out: str | Path = "runs",
    engine: Engine = "local",
    workers: int = 1,
    resume: bool = False,
    controls: bool = True,
    client_app: ClientApp | None = None,
    listen: Listener = silent,
    **how: Any,
) -> Results:
    """Run an experiment once a seed, and return its results as pandas frames.

    Args:
        experiment: what to run.
        seeds: None: the experiment's own.
        out, engine, workers, resume, controls, client_app: as in `Options`.
        listen: called after every round.
        how: further fields of `Options`: cohort, faults, ray_address, trackers, wait.

    Raises:
        RequestError: before any work, for what the request gets wrong. A run that breaks
            off is recorded, and `complete` is False.
    """
    options = Options(Path(out), engine, workers, resume, controls, client_app, **how)
    return run_cells(cells_of(experiment, {}, seeds), options, listen)


def sweep(
    experiment: Experiment,
    axes: Axes,
    seeds: Iterable[int] | None = None,
    *,
    out: str | Path = "runs",
    engine: Engine = "local",
    workers: int = 1,
    resume: bool = True,
    controls: bool = True,
    listen: Listener = silent,
    **how: Any,
) -> Results:
    """Run every cell of a grid, and return the results as pandas frames.

    Args:
        experiment: the cell that the axes start from.
        axes: values by field path, such as `{"layout.fraction": [0.0, 0.5, 1.0]}`. Fields that
            change together make an axis of their own: by its name, changes by label, such as
            `{"method": {"FedProx": {"client": FedProxClient()}, "FedAvg": {}}}`.
        seeds, out, engine, workers, resume, controls, listen, how: as in `run`; finished
            cells are kept unless `resume` is False.
    """
    options = Options(Path(out), engine, workers, resume, controls, **how)
    return run_cells(cells_of(experiment, axes, seeds), options, listen)


def run_cells(cells: list[Cell], options: Options, listen: Listener) -> Results:
    """Run cells and their controls, each distinct run once, and sum them up.

    Raises:
        RequestError: before any work. A run that breaks off is recorded.
    """
    if not cells:
        raise RequestError("nothing to run: no cells, or no seeds")
    for cell in cells:
        feasible.check(cell.experiment, options.cohort)
    cells = made_as(cells, options)
    jobs = plan(cells, options)
    _check_faults(jobs, options)
    made_folder()
    root = options.out / cells[0].experiment.name
    with held(root, wait=options.wait):
        for job in jobs:
            refuse_links(run_folder(root, *job.key))
        unfinished = _unfinished(jobs, options)
        interrupts.share(None)  # an earlier request may have been interrupted
        if options.engine != "flower":
            own_noise.make(unfinished, options.workers)
        if interrupts.wanted():
            errors = {job.key: "interrupted before it began" for job in jobs}
        else:
            errors = _execute(jobs, options, listen)
        write_summary(root, cells, [job for job in jobs if job not in cells], errors)
        return load_results(root)


def _unfinished(jobs: list[Cell], options: Options) -> list[Experiment]:
    """Return the experiments of jobs that are not finished, or are to be run anew.

    Those whose files were damaged, or whose data was replaced, count as not finished.
    """
    root = options.out / jobs[0].experiment.name
    if not options.resume:
        return [job.experiment for job in jobs]
    return [
        job.experiment
        for job in jobs
        if finished_before(run_folder(root, *job.key), job.key, fingerprint_of(job.experiment))
        is None
    ]


def made_as(cells: list[Cell], options: Options) -> list[Cell]:
    """Return cells with what changes their results beside their experiments."""
    made = made_with(options.faults, options.client_app)
    return [replace(cell, made_with=made) for cell in cells] if made else cells


def plan(cells: list[Cell], options: Options) -> list[Cell]:
    """Return each distinct run once: the cells', then those of their controls."""
    jobs = {cell.key: cell for cell in cells}
    for cell in cells if options.controls else []:
        for control in cell.controls().values():
            jobs.setdefault(control.key, control)
    return list(jobs.values())


def _execute(jobs: list[Cell], options: Options, listen: Listener) -> dict[tuple[str, int], str]:
    """Run the jobs, side by side where that helps; return what went wrong, by job."""
    compat.quiet()
    count = 1 if options.engine == "flower" else min(options.workers, len(jobs))
    failed = run_jobs(
        partial(_attempt, options, count),
        jobs,
        options.workers,
        engine=options.engine,
        ray_address=options.ray_address,
        listen=listen,
    )
    return {job.key: error for job, error in failed}


def _check_faults(jobs: list[Cell], options: Options) -> None:
    endless = [job for job in jobs if job.experiment.failures.timeout is None]
    if options.faults.hang and endless:
        raise RequestError("--inject hang needs a limit: --set failures.timeout=5, in seconds")


def _attempt(options: Options, side_by_side: int, job: Cell, listen: Listener) -> str:
    """Run a job beside others; return what went wrong, or nothing."""
    root = options.out / job.experiment.name
    session = Session(
        folder=run_folder(root, *job.key),
        engine=options.engine,
        workers=options.workers,
        resume=options.resume,
        client_app=options.client_app,
        cohort=options.cohort,
        faults=options.faults,
        ray_address=options.ray_address,
        trackers=options.trackers,
        side_by_side=side_by_side,
        made_with=job.made_with,
    )
    if interrupts.wanted():
        return "interrupted before it began"
    try:
        run_session(job.experiment, session, job.label, listen)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
