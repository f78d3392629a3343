"""The commands that run experiments."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fl_sim.cli.terminal import console, importing, stop
from fl_sim.core.literals import BatchMode, Engine, ProgressMode

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
BatchClients = Annotated[
    BatchMode,
    typer.Option(
        "--batch-clients",
        "--cohort",
        help="Train small models many at once; auto: where that is faster.",
    ),
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
Progress = Annotated[
    ProgressMode, typer.Option("--progress", help="Bars, a line of JSON a round, or nothing.")
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
    batch_clients: BatchClients = "auto",
    inject: Inject = None,
    ray_address: RayAddress = None,
    track: Track = None,
    wait: Wait = False,
    progress: Progress = "bar",
    full: Full = False,
    fallback: Fallback = None,
) -> None:
    """Run the EXPERIMENT of a file, once a seed."""
    with importing():
        from fl_sim.cli import execution
        from fl_sim.config.sweeps import expand_cells
        from fl_sim.runs.run_options import RunOptions

    content = execution.read(file, set_, rounds, fallback, full)
    wanted = execution.parse_seeds(seeds) or (content.experiment.seed,)
    shared = execution.collect_options(batch_clients, inject, ray_address, track, wait)
    options = RunOptions(out, engine, execution.count_workers(workers), resume, controls, **shared)
    execution.execute(expand_cells(content.experiment, {}, wanted), options, progress)


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
    batch_clients: BatchClients = "auto",
    inject: Inject = None,
    ray_address: RayAddress = None,
    track: Track = None,
    wait: Wait = False,
    progress: Progress = "bar",
    full: Full = False,
    fallback: Fallback = None,
) -> None:
    """Run every cell of the grid that a file declares in AXES."""
    with importing():
        from fl_sim.cli import execution
        from fl_sim.config import experiment_file
        from fl_sim.config.sweeps import expand_cells, refuse_overwrites
        from fl_sim.runs.run_options import RunOptions

    content = execution.read(file, set_, rounds, fallback, full)
    refuse_overwrites(content.axes, {own.partition("=")[0]: "--set" for own in set_ or []})
    wanted = execution.parse_seeds(seeds) or content.seeds
    shared = execution.collect_options(batch_clients, inject, ray_address, track, wait)
    options = RunOptions(out, engine, execution.count_workers(workers), resume, controls, **shared)
    with experiment_file.prefix_with_line(file, "AXES"):
        cells = expand_cells(content.experiment, content.axes, wanted)
    execution.execute(cells, options, progress)


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
    with importing():
        from fl_sim.cli import execution
        from fl_sim.cli.bars import show_study_progress
        from fl_sim.cli.show import show
        from fl_sim.core import interrupts
        from fl_sim.runs import study

    total = len(study.expand_points(study.read(file), execution.parse_seeds(seeds)))
    with show_study_progress(console, total) as on_point_end:
        options: dict[str, Any] = {
            "workers": execution.count_workers(workers),
            "resume": resume,
            "wait": wait,
        }
        results = study.run(
            file, execution.parse_seeds(seeds), out=out, on_point_end=on_point_end, **options
        )
    if interrupts.is_stop_requested():
        stop("interrupted; the same command goes on where it stood", 130)
    show(results)
    if not results.complete:
        raise typer.Exit(1)


def profile_(
    file: File,
    set_: Set = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that are timed.")] = 3,
    engine: EngineOption = "local",
    workers: Workers = None,
    batch_clients: BatchClients = "auto",
    fallback: Fallback = None,
) -> None:
    """Say where a round's time goes; nothing is written."""
    with importing():
        from fl_sim.cli import execution
        from fl_sim.report import tables
        from fl_sim.runs import profiler

    experiment = execution.read(file, set_, None, fallback).experiment
    found = profiler.profile(
        experiment, rounds, engine, execution.count_workers(workers), batch_clients
    )
    title = f"{experiment.name}, {engine}: mean of {found.rounds} rounds after a first one"
    console.print(tables.build_times_table(found.parts, title))
    console.print(tables.build_functions_table(found.functions))
