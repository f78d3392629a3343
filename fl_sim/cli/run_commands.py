"""Commands that run experiments and studies."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from fl_sim.cli import terminal
from fl_sim.cli.terminal import importing, stop
from fl_sim.core.literals import BatchMode, Engine, Precision, ProgressMode

File = Annotated[Path, Argument(help="Python file with an EXPERIMENT, or experiment.json.")]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="FIELD=VALUE", help="Set a field: protection.radius=8/255."),
]
Seeds = Annotated[str | None, Option(help="Comma-separated seeds, such as 0,1,2.")]
Rounds = Annotated[int | None, Option(help="Number of rounds, in place of the file's.")]
EngineOption = Annotated[
    Engine, Option(help="This process, Ray's workers, or Flower's simulation engine.")
]
Workers = Annotated[
    int | None, Option(min=1, help="Number of processes.", show_default="number of cores")
]
Out = Annotated[Path, Option(help="Folder that results are written to.")]
Controls = Annotated[
    bool, Option(help="Also run controls: A_all, A_clean (of protection), A_honest (of attacks).")
]
BatchClients = Annotated[
    BatchMode, Option(help="Train many clients as one batch; auto: if that is faster here.")
]
Inject = Annotated[
    str | None,
    Option(metavar="KIND:CHANCE,...", help="Failures to inject: crash, nan, hang or slow."),
]
RayAddress = Annotated[
    str | None, Option(help="Address of a running Ray cluster, such as auto or HOST:6379.")
]
Track = Annotated[
    list[str] | None,
    Option("--track", metavar="TOOL", help="Also log to tensorboard, mlflow or wandb."),
]
Wait = Annotated[bool, Option("--wait", help="Wait for any other process that writes into --out.")]
Progress = Annotated[
    ProgressMode, Option(help="Show bars, print a line of JSON per round, or nothing.")
]
App = Annotated[
    str | None,
    Option("--client-app", metavar="MODULE:NAME", help="Flower ClientApp in place of the clients."),
]
Full = Annotated[
    bool, Option("--full", help="Apply FULL of the file, such as the size of a paper.")
]
Small = Annotated[
    bool, Option("--small", help="Make SEM and REM noise with fewer steps than published.")
]
Forecast = Annotated[
    bool, Option("--forecast", help="Print what is left to do and how long it takes, and exit.")
]
Fallback = Annotated[
    str | None,
    Option("--fallback-dataset", metavar="NAME", help="Dataset if the file's is missing."),
]
DeviceOption = Annotated[
    str,
    Option("--device", help="Device to compute on: auto takes what is there; cpu, cuda:1, mps."),
]
Deterministic = Annotated[
    bool, Option(help="Use deterministic algorithms on an accelerator, though some are slower.")
]
PrecisionOption = Annotated[
    Precision, Option("--precision", help="Precision of the networks; tf32 is for NVIDIA's GPUs.")
]
Compile = Annotated[
    bool, Option("--compile", help="Compile networks by torch.compile; it takes time at first.")
]
MixDevices = Annotated[
    bool, Option("--mix-devices", help="Keep and continue runs of another kind of device, or mode.")
]


def run(
    file: File,
    set_: Set = None,
    seeds: Seeds = None,
    rounds: Rounds = None,
    engine: EngineOption = "local",
    workers: Workers = None,
    resume: Annotated[bool, Option("--resume", help="Continue from checkpoints.")] = False,
    out: Out = Path("runs"),
    controls: Controls = True,
    batch_clients: BatchClients = "auto",
    inject: Inject = None,
    ray_address: RayAddress = None,
    track: Track = None,
    wait: Wait = False,
    progress: Progress = "bar",
    full: Full = False,
    small: Small = False,
    forecast: Forecast = False,
    fallback: Fallback = None,
    device: DeviceOption = "auto",
    deterministic: Deterministic = True,
    mix_devices: MixDevices = False,
    app: App = None,
    precision: PrecisionOption = "float32",
    compile_: Compile = False,
) -> None:
    """Run the experiment of a file, once per seed."""
    with importing():
        from fl_sim.cli import execution
        from fl_sim.config.sweeps import plan_cells

    content = execution.read(file, set_, rounds, fallback, full, small)
    wanted = execution.parse_seeds(seeds) or (content.experiment.seed,)
    options = execution.collect_options(
        workers,
        inject,
        track,
        app,
        out=out,
        engine=engine,
        resume=resume,
        controls=controls,
        batch_clients=batch_clients,
        ray_address=ray_address,
        wait=wait,
        device=device,
        deterministic=deterministic,
        mix_devices=mix_devices,
        precision=precision,
        compile=compile_,
        question=content.question,
    )
    grid = plan_cells(content.experiment, {}, wanted)
    execution.execute(grid, options, progress, full, forecast)


def sweep(
    file: File,
    set_: Set = None,
    seeds: Seeds = None,
    rounds: Rounds = None,
    engine: EngineOption = "local",
    workers: Workers = None,
    resume: Annotated[
        bool, Option("--resume/--fresh", help="Keep finished cells, or run all of them again.")
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
    small: Small = False,
    forecast: Forecast = False,
    fallback: Fallback = None,
    device: DeviceOption = "auto",
    deterministic: Deterministic = True,
    mix_devices: MixDevices = False,
    app: App = None,
    precision: PrecisionOption = "float32",
    compile_: Compile = False,
    skip_invalid: Annotated[
        bool,
        Option("--skip-invalid", help="Leave out cells that cannot be run, and record why."),
    ] = False,
) -> None:
    """Run an experiment at every point of the grid in the file's AXES."""
    with importing():
        from fl_sim.cli import execution
        from fl_sim.config import experiment_file
        from fl_sim.config.sweeps import plan_cells, refuse_overwrites

    content = execution.read(file, set_, rounds, fallback, full, small)
    refuse_overwrites(content.axes, {change.partition("=")[0]: "--set" for change in set_ or []})
    wanted = execution.parse_seeds(seeds) or content.seeds
    options = execution.collect_options(
        workers,
        inject,
        track,
        app,
        out=out,
        engine=engine,
        resume=resume,
        controls=controls,
        batch_clients=batch_clients,
        ray_address=ray_address,
        wait=wait,
        device=device,
        deterministic=deterministic,
        mix_devices=mix_devices,
        precision=precision,
        compile=compile_,
        question=content.question,
        skip_invalid=skip_invalid,
    )
    axes, skip = content.axes, content.skip
    with experiment_file.prefix_with_line(file, "AXES"):
        grid = plan_cells(content.experiment, axes, wanted, skip=skip, skip_invalid=skip_invalid)
    execution.execute(grid, options, progress, full, forecast)


def study_(
    file: Annotated[Path, Argument(help="Python file that defines a function measure.")],
    seeds: Seeds = None,
    workers: Workers = None,
    resume: Annotated[
        bool, Option("--resume/--fresh", help="Keep finished points, or measure all of them again.")
    ] = True,
    out: Out = Path("runs"),
    wait: Wait = False,
    device: DeviceOption = "auto",
    deterministic: Deterministic = True,
    precision: PrecisionOption = "float32",
) -> None:
    """Run a study: call the file's function measure at every point of its AXES."""
    with importing():
        from fl_sim.cli import execution
        from fl_sim.cli.bars import show_study_progress
        from fl_sim.cli.show import show
        from fl_sim.runs import study

    execution.announce_device(device)
    count, chosen = execution.count_workers(workers), execution.parse_seeds(seeds)
    total = len(study.expand_points(study.read(file), chosen))
    try:
        with show_study_progress(terminal.console, total) as listen:
            results = study.run(
                file,
                chosen,
                out=out,
                workers=count,
                resume=resume,
                wait=wait,
                on_point_end=listen,
                device=device,
                deterministic=deterministic,
                precision=precision,
            )
    except KeyboardInterrupt:
        stop("interrupted; the same command continues", 130)
    show(results)
    if not results.complete:
        raise typer.Exit(1)


def profile_(
    file: File,
    set_: Set = None,
    rounds: Annotated[int, Option(min=1, help="Number of rounds that are timed.")] = 3,
    engine: EngineOption = "local",
    workers: Workers = None,
    batch_clients: BatchClients = "auto",
    fallback: Fallback = None,
    device: DeviceOption = "auto",
    deterministic: Deterministic = True,
    precision: PrecisionOption = "float32",
    compile_: Compile = False,
) -> None:
    """Time the parts of a round, and the costliest functions; nothing is written."""
    with importing():
        from fl_sim.cli import execution
        from fl_sim.cli.bars import show_stages
        from fl_sim.report import tables
        from fl_sim.runs import profiler

    experiment = execution.read(file, set_, None, fallback).experiment
    options = execution.collect_options(
        workers,
        engine=engine,
        batch_clients=batch_clients,
        device=device,
        deterministic=deterministic,
        precision=precision,
        compile=compile_,
    )
    execution.announce_device(device)
    with show_stages(terminal.console) as watch:
        profile = profiler.profile(experiment, rounds, options, watch)
    title = f"{experiment.name}, {engine}: mean of {profile.rounds} rounds after a first one"
    terminal.console.print(tables.build_times_table(profile.parts, title))
    terminal.console.print(tables.build_functions_table(profile.functions))
