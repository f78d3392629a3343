"""The commands that run experiments."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fl_sim import experiment_file, runner, study
from fl_sim.cells import Cell, cells_of, checked_seeds
from fl_sim.cli.terminal import console, show, show_study, stop
from fl_sim.data.sources import MissingDataError, load, sources
from fl_sim.engine import interrupts, profile
from fl_sim.engine.cohort_choice import CohortMode
from fl_sim.engine.faults import Faults
from fl_sim.engine.session import Engine
from fl_sim.errors import RequestError, require, shown
from fl_sim.progress import Mode, live_progress, study_progress
from fl_sim.report import profile as profile_tables

File = Annotated[Path, typer.Argument(help="A file with an EXPERIMENT, or experiment.json.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change a field; fractions are read."),
]
Seeds = Annotated[str | None, typer.Option(help="Comma-separated, such as 0,1,2.")]
Rounds = Annotated[int | None, typer.Option(help="Number of rounds.")]
EngineOption = Annotated[Engine, typer.Option("--engine", help="What carries the messages.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that work at once.  [default: the cores]")
]
Out = Annotated[Path, typer.Option(help="Folder of all results.")]
Controls = Annotated[
    bool, typer.Option(help="Also run what protection is measured against (A_all, A_clean).")
]
Cohort = Annotated[
    CohortMode, typer.Option(help="Train small models many at once; auto: where that is faster.")
]
Inject = Annotated[
    str | None,
    typer.Option(metavar="KIND:CHANCE,...", help="Failures on purpose: crash, nan, hang, slow."),
]
RayAddress = Annotated[
    str | None, typer.Option(help="A Ray cluster that is running, such as auto or HOST:6379.")
]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="TOOL", help="Follow the run with tensorboard or mlflow."),
]
Wait = Annotated[
    bool, typer.Option("--wait", help="Where another process writes into --out, wait for it.")
]
ProgressMode = Annotated[
    Mode, typer.Option("--progress", help="Bars, a line of JSON a round, or nothing.")
]
Full = Annotated[
    bool, typer.Option("--full", help="The size of the papers, which the file names as FULL.")
]
Fallback = Annotated[
    str | None,
    typer.Option("--fallback-dataset", metavar="NAME", help="Used where data.dataset is missing."),
]


def run(
    file: File,
    set_: Set = None,
    seeds: Seeds = None,
    rounds: Rounds = None,
    engine: EngineOption = "local",
    workers: Workers = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from checkpoints.")] = False,
    out: Out = Path("runs"),
    controls: Controls = True,
    cohort: Cohort = "auto",
    inject: Inject = None,
    ray_address: RayAddress = None,
    track: Track = None,
    wait: Wait = False,
    progress: ProgressMode = "bar",
    full: Full = False,
    fallback: Fallback = None,
) -> None:
    """Run the EXPERIMENT of a file, once a seed."""
    content = _read(file, set_, rounds, fallback, full)
    wanted = _seeds(seeds) or (content.experiment.seed,)
    how = _how(cohort, inject, ray_address, track, wait)
    options = runner.Options(out, engine, _workers(workers), resume, controls, **how)
    _carry_out(cells_of(content.experiment, {}, wanted), options, progress)


def sweep(
    file: File,
    set_: Set = None,
    seeds: Seeds = None,
    rounds: Rounds = None,
    engine: EngineOption = "local",
    workers: Workers = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Keep finished cells, or run all anew.")
    ] = True,
    out: Out = Path("runs"),
    controls: Controls = True,
    cohort: Cohort = "auto",
    inject: Inject = None,
    ray_address: RayAddress = None,
    track: Track = None,
    wait: Wait = False,
    progress: ProgressMode = "bar",
    full: Full = False,
    fallback: Fallback = None,
) -> None:
    """Run every cell of the grid that a file declares in AXES."""
    content = _read(file, set_, rounds, fallback, full)
    experiment_file.check_overrides(content.axes, set_ or [])
    wanted = _seeds(seeds) or content.seeds
    how = _how(cohort, inject, ray_address, track, wait)
    options = runner.Options(out, engine, _workers(workers), resume, controls, **how)
    with experiment_file.named_in(file, "AXES"):
        cells = cells_of(content.experiment, content.axes, wanted)
    _carry_out(cells, options, progress)


def study_(
    file: Annotated[Path, typer.Argument(help="A file with a function measure.")],
    seeds: Seeds = None,
    workers: Workers = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Keep what was measured, or measure anew.")
    ] = True,
    out: Out = Path("runs"),
    wait: Wait = False,
) -> None:
    """Measure every point of a study, something other than a federation."""
    total = len(study.points_of(study.read(file), _seeds(seeds)))
    with study_progress(console, total) as told:
        how: dict[str, Any] = {"workers": _workers(workers), "resume": resume, "wait": wait}
        results = study.run(file, _seeds(seeds), out=out, told=told, **how)
    if interrupts.wanted():
        stop("interrupted; the same command goes on where it stood", 130)
    show_study(results)
    if not results.complete:
        raise typer.Exit(1)


def profile_(
    file: File,
    set_: Set = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 3,
    engine: EngineOption = "local",
    workers: Workers = None,
    cohort: Cohort = "auto",
    fallback: Fallback = None,
) -> None:
    """Say where a round's time goes; nothing is written."""
    experiment = _read(file, set_, None, fallback).experiment
    found = profile.profile(experiment, rounds, engine, _workers(workers), cohort)
    title = f"{experiment.name}, {engine}: mean of {found.rounds} rounds after a first one"
    console.print(profile_tables.times(found.parts, title))
    console.print(profile_tables.functions(found.functions))


def _read(
    file: Path,
    set_: list[str] | None,
    rounds: int | None,
    fallback: str | None,
    full: bool = False,
) -> experiment_file.ExperimentFile:
    overrides = [*(set_ or []), *([f"rounds={rounds}"] if rounds is not None else [])]
    content = experiment_file.read(file, overrides, full=full)
    data = content.experiment.data
    known = sources()
    require(
        fallback in (None, *known), "--fallback-dataset", f"one of {', '.join(known)}", fallback
    )
    if fallback is None or data.dataset == fallback:
        return content
    try:
        load(data.dataset, data.path, data.reading)
    except MissingDataError as error:
        _warn_loudly(data.dataset, fallback, error)
        sizes = ["data.num_samples=none", "data.num_test=none", "data.folders=none"]
        overrides += [f"data.dataset={fallback}", "data.path=none", *sizes]
        return experiment_file.read(file, overrides, full=full)
    return content


def _warn_loudly(missing: str, fallback: str, error: MissingDataError) -> None:
    console.rule(f"[bold red]{missing} IS NOT HERE: RUNNING ON {fallback.upper()} INSTEAD")
    console.print(f"[red]{error}", soft_wrap=True)
    console.rule()


def _seeds(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = text.split(",")
    if not all(re.fullmatch(r" *[0-9]{1,19} *", part) for part in parts):
        raise RequestError(
            f"--seeds takes numbers such as 0,1,2, from 0 to 2^63 - 1; got {shown(text)}"
        )
    return checked_seeds([int(part) for part in parts], "--seeds")


def _how(
    cohort: CohortMode,
    inject: str | None,
    ray_address: str | None,
    track: list[str] | None,
    wait: bool,
) -> dict[str, Any]:
    """Return the options that `run` and `sweep` share, as the runner takes them."""
    faults = Faults() if inject is None else Faults.read(inject)
    trackers = tuple(track or ())
    return {
        "cohort": cohort,
        "faults": faults,
        "ray_address": ray_address,
        "trackers": trackers,
        "wait": wait,
    }


def _workers(workers: int | None) -> int:
    return workers or len(os.sched_getaffinity(0))


def _carry_out(cells: list[Cell], options: runner.Options, mode: Mode) -> None:
    try:
        with live_progress(console, len(runner.plan(cells, options)), mode) as listen:
            results = runner.run_cells(cells, options, listen)
    except KeyboardInterrupt:
        stop("interrupted at once; go on with --resume", 130)
    if interrupts.wanted():
        stop("interrupted after the round at hand; go on with --resume", 130)
    show(results, Console(stderr=True) if mode == "json" else console)
    if not results.complete:
        raise typer.Exit(1)
