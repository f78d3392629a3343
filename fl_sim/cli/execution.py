"""Work of the commands that run experiments, in a module that takes seconds to import."""

import re
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from fl_sim.cli.bars import show_progress
from fl_sim.cli.show import show
from fl_sim.cli.terminal import console, stop
from fl_sim.config import experiment_file
from fl_sim.config.sweeps import GridCells, validate_seeds
from fl_sim.core import interrupts, user_modules
from fl_sim.core.device import describe_device, resolve_devices
from fl_sim.core.errors import FieldError, RequestError, require, shorten
from fl_sim.core.flower_types import ClientApp
from fl_sim.core.literals import ProgressMode
from fl_sim.core.process import count_cores
from fl_sim.data.sources import MissingDataError, discover_sources, load_dataset
from fl_sim.runs import forecast, runner
from fl_sim.runs.run_options import RunOptions
from fl_sim.scenario import Scenario, draw_timeline, is_scripted
from fl_sim.training.faults import Faults

MOST_LINES = 5  # that tell parts which closed forms chose


def read(
    file: Path,
    set_: list[str] | None,
    rounds: int | None,
    fallback: str | None,
    full: bool = False,
    small: bool = False,
) -> experiment_file.ExperimentFile:
    """Return the content of an experiment's file, with overrides.

    Args:
        file: Path of the file.
        set_: Overrides such as `rounds=3`.
        rounds: Number of rounds; None for that of the file.
        fallback: Name of the dataset to use if that of the file is missing; None for none.
        full: Whether to apply the file's FULL.
        small: Whether to make SEM and REM noise in its small size.

    Raises:
        RequestError: For a wrong file or override.
    """
    overrides = [*(set_ or []), *([f"rounds={rounds}"] if rounds is not None else [])]
    content = experiment_file.read(file, overrides, full=full, small=small)
    data = content.experiment.data
    known = discover_sources()
    allowed = f"one of {', '.join(known)}"
    require(fallback in (None, *known), "--fallback-dataset", allowed, fallback)
    if fallback is None or data.dataset == fallback:
        return content
    try:
        load_dataset(data.dataset, data.path, data.read_options)
    except MissingDataError as error:
        console.rule(f"[bold red]{data.dataset} IS MISSING: RUNNING ON {fallback.upper()} INSTEAD")
        console.print(f"[red]{error}", soft_wrap=True)
        console.rule()
        sizes = ["data.num_samples=none", "data.num_test=none", "data.folders=none"]
        overrides += [f"data.dataset={fallback}", "data.path=none", *sizes]
        return experiment_file.read(file, overrides, full=full, small=small)
    return content


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """Return the seeds of a comma-separated list, or an empty tuple for None.

    Raises:
        RequestError: For anything but distinct whole numbers.
    """
    if text is None:
        return ()
    parts = text.split(",")
    if not all(re.fullmatch(r" *[0-9]{1,19} *", part) for part in parts):
        raise RequestError(
            f"--seeds takes numbers such as 0,1,2, from 0 to 2^63 - 1; got {shorten(text)}"
        )
    return validate_seeds([int(part) for part in parts], "--seeds")


def collect_options(
    workers: int | None,
    inject: str | None = None,
    track: list[str] | None = None,
    client_app: str | None = None,
    **fields: Any,
) -> RunOptions:
    """Return options of a run, from options of the command line and from fields as they are."""
    return RunOptions(
        workers=count_workers(workers),
        faults=Faults() if inject is None else Faults.parse(inject),
        trackers=tuple(track or ()),
        client_app=None if client_app is None else load_app(client_app),
        **fields,
    )


def load_app(text: str) -> ClientApp:
    """Return the Flower ClientApp of a user, such as `my_app.client:app`.

    Raises:
        RequestError: If there is none.
    """
    module, _, name = text.rpartition(":")
    require(bool(module and name), "--client-app", "a module and a name such as my_app:app", text)
    (declared,) = user_modules.declare(module, source="--client-app")
    app = getattr(user_modules.import_module(declared), name, None)
    if not isinstance(app, ClientApp):
        raise FieldError("--client-app", f"the name of a ClientApp of Flower in {module}", name)
    return app


def count_workers(workers: int | None) -> int:
    """Return the number of processes, by default that of the cores."""
    return workers or count_cores()


def announce_device(name: str, terminal: Console = console) -> None:
    """Print the device that `auto` takes, if that is what the user asked for.

    Raises:
        RequestError: For a device that this machine does not have.
    """
    device = resolve_devices(name)[0]
    if name == "auto":
        terminal.print(f"device: {describe_device(device)}", highlight=False)


def describe_script(grid: GridCells) -> list[str]:
    """Return the scenario of a grid as a sentence and a timeline, if all cells have the same one.

    The timeline is that of the first seed. Scenarios without clauses are not described.
    """
    first = grid.cells[0].experiment if grid.cells else None
    if first is None or not is_scripted(first):
        return []
    scenarios = {Scenario.of(cell.experiment) for cell in grid.cells}
    return [f"{Scenario.of(first)}", draw_timeline(first)] if len(scenarios) == 1 else []


def announce_forecast(grid: GridCells, options: RunOptions, terminal: Console) -> None:
    """Print the work that is left, and the time that it takes on each kind of device."""
    terminal.print("measuring how long it takes ...", highlight=False)
    lines = [
        *forecast.forecast(grid, options).describe(),
        forecast.describe_other_device(grid, options),
    ]
    for line in lines:
        terminal.print(line, soft_wrap=True, markup=False, highlight=False)


def execute(
    grid: GridCells,
    options: RunOptions,
    mode: ProgressMode,
    with_forecast: bool = False,
    only_forecast: bool = False,
) -> None:
    """Run cells, show their progress and results, and exit with 1 if one of them failed.

    Args:
        grid: The cells.
        options: Options of the runs.
        mode: Kind of progress that is shown.
        with_forecast: Whether to print first how long it takes.
        only_forecast: Whether to print that and run nothing.
    """
    terminal = Console(stderr=True) if mode == "json" else console
    announce_device("auto" if options.device == "auto" else str(options.find_device()), terminal)
    chosen = dict.fromkeys(cell.experiment.describe_closed_form() for cell in grid.cells)
    lines = [line for line in chosen if line]
    more = [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    for line in lines[:MOST_LINES] + more:
        terminal.print(line, soft_wrap=True)
    try:
        grid = runner.drop_invalid(grid, options)
        if with_forecast or only_forecast:
            announce_forecast(grid, options, terminal)
        if only_forecast:
            return
        for line in describe_script(grid):
            terminal.print(line, soft_wrap=True, markup=False, highlight=False)
        with show_progress(console, len(runner.plan_jobs(grid.cells, options)), mode) as listen:
            results = runner.run_grid(grid, options, listen)
    except KeyboardInterrupt:
        stop("interrupted at once; continue with --resume", 130)
    if interrupts.is_stop_requested():
        show(results, terminal)  # of the cells that are finished
        stop("interrupted after the current round; continue with --resume", 130)
    show(results, terminal)
    if not results.complete:
        raise typer.Exit(1)
