"""Runs and sweeps: each distinct run is executed once, in parallel if there are workers."""

import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from fl_sim.config.sweeps import (
    Cell,
    GridCells,
    Skip,
    SkippedCell,
    expand_cells,
    plan_cells,
    refuse_invalid,
)
from fl_sim.core import interrupts
from fl_sim.core.cache import make_folder
from fl_sim.core.errors import RequestError
from fl_sim.core.locks import lock_folder, remove_folder
from fl_sim.core.precision import use_precision
from fl_sim.core.process import silence_logs
from fl_sim.experiment import Axes, Experiment
from fl_sim.federation.federation import hash_files
from fl_sim.results import Results, load_results
from fl_sim.results.tables import SUMMARY
from fl_sim.runs import feasibility, owner_noise
from fl_sim.runs.processes import has_script, run_jobs
from fl_sim.runs.progress import Listener
from fl_sim.runs.run_options import RunOptions, make_options
from fl_sim.runs.single_run import (
    find_folder,
    load_finished,
    refuse_links,
    refuse_other_device,
    run_cell,
)
from fl_sim.runs.summary import SummaryUpdates, write_summary
from fl_sim.runs.variant import describe_variant


def run(
    experiment: Experiment,
    seeds: Iterable[int] | None = None,
    *,
    listen: Listener = lambda progress: None,
    **options: Any,
) -> Results:
    """Run an experiment once per seed, and return its results as pandas frames.

    Args:
        experiment: The experiment to run.
        seeds: The seeds; None for that of the experiment.
        listen: Called after every round.
        options: Fields of `RunOptions`, such as `out`, `engine`, `workers` or `resume`.

    Raises:
        RequestError: Before any work, for a wrong request. A run that fails is recorded, and
            `complete` is False.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once the current round is finished and saved;
            `resume=True` continues.
    """
    results = run_cells(expand_cells(experiment, {}, seeds), make_options(options), listen)
    interrupts.raise_after_interrupt()
    return results


def sweep(
    experiment: Experiment,
    axes: Axes,
    seeds: Iterable[int] | None = None,
    *,
    skip: Skip | None = None,
    listen: Listener = lambda progress: None,
    **options: Any,
) -> Results:
    """Run every cell of a grid, and return the results as pandas frames.

    Finished cells are kept unless `resume` is False.

    Args:
        experiment: The cell that the axes start from.
        axes: Values by field path, such as `{"layout.fraction": [0.0, 0.5, 1.0]}`. Fields that
            change together make an axis of their own: by its name, changes by label, such as
            `{"method": {"FedProx": {"client": FedProxClient()}, "FedAvg": {}}}`.
        skip: By reason, a function of a cell's experiment that returns True if the cell is to be
            left out, such as `{"Krum needs 5 clients": lambda e: e.data.num_clients < 5}`.
        seeds: The seeds; None for that of the experiment.
        listen: Called after every round.
        options: Fields of `RunOptions`.

    Raises:
        RequestError: As in `run`.
        KeyboardInterrupt: As in `run`.
    """
    chosen = make_options({"resume": True, **options})
    grid = plan_cells(experiment, axes, seeds, skip=skip, skip_invalid=chosen.skip_invalid)
    results = run_grid(drop_invalid(grid, chosen), chosen, listen)
    interrupts.raise_after_interrupt()
    return results


def run_cells(cells: list[Cell], options: RunOptions, listen: Listener) -> Results:
    """Check cells, run them and their controls, and return their results.

    Raises:
        RequestError: Before any work. A run that fails is recorded.
    """
    return run_grid(drop_invalid(GridCells(cells, []), options), options, listen)


def drop_invalid(grid: GridCells, options: RunOptions) -> GridCells:
    """Check every cell, and return the grid with those that cannot be run among the skipped.

    Raises:
        RequestError: If there are such cells and `skip_invalid` is not set, or no others.
    """
    kept, invalid = list[Cell](), list[tuple[SkippedCell, RequestError]]()
    for cell in grid.cells:
        try:
            with use_precision(options.find_precision()):
                feasibility.check(cell.experiment, options.batch_clients)
        except RequestError as error:
            skipped = SkippedCell(cell.settings, cell.experiment.seed, str(error))
            invalid.append((skipped, error))
        else:
            kept.append(cell)
    if invalid and not (options.skip_invalid and kept):
        refuse_invalid(invalid, len(grid.cells))
    return GridCells(kept, [*grid.skipped, *(cell for cell, _ in invalid)])


def run_grid(grid: GridCells, options: RunOptions, listen: Listener) -> Results:
    """Run checked cells and their controls, each distinct run once, and return their results.

    Raises:
        RequestError: Before any work. A run that fails is recorded.
    """
    if not grid.cells:
        reasons = "; ".join(dict.fromkeys(cell.reason for cell in grid.skipped))
        all_skipped = f"every cell is skipped: {reasons}"
        raise RequestError(f"nothing to run: {all_skipped if reasons else 'no cells, or no seeds'}")
    # Other processes do not know the surrounding device and precision.
    device = str(options.find_device()) if options.device is None else options.device
    devices = options.find_devices()
    workers = max(options.workers, len(devices))
    precision = options.find_precision()
    options = replace(options, device=device, workers=workers, precision=precision)
    cells = mark_variants(grid.cells, options)
    jobs = plan_jobs(cells, options)
    _check_faults(jobs, options)
    _check_pickling(len(jobs), options)
    make_folder()
    root = options.out / cells[0].experiment.name
    with lock_folder(root, wait=options.wait):
        for job in jobs:
            refuse_links(find_folder(options, job))
            refuse_other_device(find_folder(options, job), options)
        if not options.resume:  # else runs that do not begin would count as finished
            (root / SUMMARY).unlink(missing_ok=True)
            for job in jobs:
                remove_folder(find_folder(options, job))
        interrupts.set_flag(None)  # an earlier run may have been interrupted
        if options.engine != "flower":
            per_owner = [job for job in jobs if job.experiment.has_own_noise]
            owner_noise.make_owner_noise(_unfinished_jobs(per_owner, options), options, listen)
        silence_logs()
        content = (root, cells, [job for job in jobs if job not in cells])
        updates = SummaryUpdates(*content, grid.skipped, options.question)
        count = 1 if options.engine == "flower" else min(options.workers, len(jobs))
        failed = run_jobs(
            partial(run_cell, options, count),
            jobs,
            options.workers,
            engine=options.engine,
            ray_address=options.ray_address,
            devices=devices,
            listen=listen,
            on_job_end=updates.note,
        )
        errors = {job.key: error for job, error in failed}
        write_summary(*content, errors, grid.skipped, options.question)
        return load_results(root)


def _unfinished_jobs(jobs: list[Cell], options: RunOptions) -> list[Experiment]:
    """Return the experiments of jobs that are unfinished, or are to be run again.

    Jobs whose files were damaged, or whose data was replaced, count as unfinished.
    """
    if not options.resume:
        return [job.experiment for job in jobs]
    unfinished = []
    for job in jobs:
        hashes = hash_files(job.experiment)
        if load_finished(find_folder(options, job), job.key, hashes) is None:
            unfinished.append(job.experiment)
    return unfinished


def mark_variants(cells: list[Cell], options: RunOptions) -> list[Cell]:
    """Return cells marked with the options that change their results."""
    precision = options.find_precision()
    variant = describe_variant(options.faults, options.client_app, precision, options.compile)
    return [replace(cell, made_with=variant) for cell in cells] if variant else cells


def plan_jobs(cells: list[Cell], options: RunOptions) -> list[Cell]:
    """Return each distinct run once: first the cells, then their controls."""
    jobs = {cell.key: cell for cell in cells}
    for cell in cells if options.controls else []:
        for control in cell.controls().values():
            jobs.setdefault(control.key, control)
    return list(jobs.values())


def _check_pickling(num_jobs: int, options: RunOptions) -> None:
    """Raise a `RequestError` if runs are parallel, and an option cannot be sent to a worker."""
    if min(options.workers, num_jobs) < 2 or options.engine == "flower":
        return
    dump: Callable[[Any], bytes] = pickle.dumps
    if options.engine == "ray":
        from fl_sim.runs.ray_jobs import dump  # Ray takes a second to import
    for name in ("callbacks", "client_app"):
        cause = ""
        try:
            content = dump(getattr(options, name))
        except Exception as error:
            cause = str(error)
        else:
            if options.engine == "local" and b"__main__" in content and not has_script():
                cause = "a worker cannot import the script; define them in a module"
        if cause:
            raise RequestError(f"{name} cannot be sent to {options.workers} workers: {cause}")


def _check_faults(jobs: list[Cell], options: RunOptions) -> None:
    endless = [job for job in jobs if job.experiment.failures.timeout is None]
    if options.faults.hang and endless:
        raise RequestError("--inject hang needs a limit: --set failures.timeout=5, in seconds")
