"""The command line: parse, call, print; no logic."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from fl_sim import catalogue, doctor, experiment_file, runner
from fl_sim.audit.session import audit as run_audit
from fl_sim.audit.session import run_folders
from fl_sim.data.sources import MissingDataError, load
from fl_sim.engine import interrupts, profile
from fl_sim.engine.cohort_choice import CohortMode
from fl_sim.engine.faults import Faults
from fl_sim.engine.session import Engine
from fl_sim.errors import RequestError, RunFailedError
from fl_sim.progress import Mode, audit_progress, live_progress, live_stages
from fl_sim.publish.check import Verdict, check
from fl_sim.publish.publish import account, publish
from fl_sim.publish.request import Request, method
from fl_sim.report import expected, tables
from fl_sim.report import profile as profile_tables
from fl_sim.results import Results, load_results

app = typer.Typer(
    help="Federated learning when some participants protect their data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Datasets: what there is, and how to get it.", no_args_is_help=True)
app.add_typer(data_app, name="data")
expected_app = typer.Typer(help="What experiments gave, and give.", no_args_is_help=True)
app.add_typer(expected_app, name="expected")
console = Console()

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
ExpectedFile = Annotated[Path, typer.Argument(help="experiments/<name>.expected.json")]
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
ProgressMode = Annotated[
    Mode, typer.Option("--progress", help="Bars, a line of JSON a round, or nothing.")
]
Fallback = Annotated[
    str | None,
    typer.Option("--fallback-dataset", metavar="NAME", help="Used where data.dataset is missing."),
]


@app.command()
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
    progress: ProgressMode = "bar",
    fallback: Fallback = None,
) -> None:
    """Run the EXPERIMENT of a file, once a seed."""
    content = _read(file, set_, rounds, fallback)
    wanted = _seeds(seeds) or (content.experiment.seed,)
    faults = Faults.read(inject) if inject else Faults()
    how: Any = {"cohort": cohort, "faults": faults, "ray_address": ray_address}
    how["trackers"] = tuple(track or ())
    options = runner.Options(out, engine, _workers(workers), resume, controls, **how)
    _carry_out(runner.cells_of(content.experiment, {}, wanted), options, progress)


@app.command()
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
    progress: ProgressMode = "bar",
    fallback: Fallback = None,
) -> None:
    """Run every cell of the grid that a file declares in AXES."""
    content = _read(file, set_, rounds, fallback)
    wanted = _seeds(seeds) or content.seeds
    faults = Faults.read(inject) if inject else Faults()
    how: Any = {"cohort": cohort, "faults": faults, "ray_address": ray_address}
    how["trackers"] = tuple(track or ())
    options = runner.Options(out, engine, _workers(workers), resume, controls, **how)
    _carry_out(runner.cells_of(content.experiment, content.axes, wanted), options, progress)


@app.command("profile")
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


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="runs/, or the folder of one experiment.")],
) -> None:
    """Rebuild tables, figures and the page from results alone."""
    folders = [path] if (path / "summary.json").exists() else sorted(path.glob("*/"))
    folders = [folder for folder in folders if (folder / "summary.json").exists()]
    if not folders:
        raise RequestError(f"no results in {path}")
    for folder in folders:
        _show(load_results(folder))


@app.command()
def protect(
    source: Annotated[
        Path | None, typer.Argument(metavar="INPUT", help="Folder of images, or an .npz file.")
    ] = None,
    name: Annotated[str, typer.Option("--method", help="Such as em, sem, lsp.")] = "em",
    radius: Annotated[str | None, typer.Option(help="Such as 8/255.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the protected images.")] = None,
    set_: Set = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise; keep it to yourself.")] = 0,
    labels: Annotated[
        Path | None, typer.Option(help="CSV with columns file,label.  [default: class folders]")
    ] = None,
    side: Annotated[
        int | None, typer.Option(min=8, help="Make the noise at this size, for mixed sizes.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of an .npz file, such as train.  [default: all]")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option("--check", metavar="DIR", help="Verify a protected folder.")
    ] = None,
) -> None:
    """Protect images before they are published, or check that they are protected.

    Writes lossless copies and a manifest; never touches the input. Run it again to go on.
    """
    if verify is not None:
        with live_stages(console) as watch:
            verdict = check(verify, source, watch)
        _judge(verify, verdict)
        return
    if source is None or out is None:
        raise RequestError("protect needs an INPUT and --out DIR, or --check DIR")
    protection = method(name, radius, set_ or [])
    request = Request(source, out, protection, seed, labels, side, split)
    try:
        with live_stages(console) as watch:
            manifest = publish(request, watch)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on", 130)
    for what, value, note in account(manifest):
        console.print(f"{what:<16}{value:<12}{note}", soft_wrap=True, highlight=False)
    console.print(f"{out}: keep manifest.json and request.json to yourself", soft_wrap=True)


@app.command()
def audit(
    path: Annotated[
        Path, typer.Argument(help="Folder of a finished run, or of an experiment: all its runs.")
    ],
    tier: Annotated[
        int,
        typer.Option(
            min=0,
            max=2,
            help="0: what the model says. 1: a few reference models. 2: many, and LiRA.",
        ),
    ] = 1,
    references: Annotated[
        int | None,
        typer.Option(min=2, help="Number of reference models.  [default: by tier and run]"),
    ] = None,
) -> None:
    """Audit finished runs for membership leakage; a broken audit goes on where it stood."""
    from fl_sim.report import page

    folders = run_folders(path)
    with audit_progress(console, len(folders)) as (listen, note, finished):
        for folder in folders:
            findings = run_audit(folder, tier, references, listen=listen, note=note)
            finished(tables.audit(str(folder), findings))
    for root in sorted({folder.parents[1] for folder in folders}):
        if (root / "summary.json").exists():
            console.print(f"report: {page.write(load_results(root))}", soft_wrap=True)


@expected_app.command("record")
def expected_record(
    file: ExpectedFile,
    minutes: Annotated[float, typer.Option(help="Wall-clock time that the runs took.")],
    out: Out = Path("runs"),
) -> None:
    """Write the results of an experiment into its expected file."""
    expected.record(file, expected.results_of(file, out), minutes)
    console.print(f"wrote {file}", soft_wrap=True)


@expected_app.command("compare")
def expected_compare(file: ExpectedFile, out: Out = Path("runs")) -> None:
    """Compare results with what is expected; the exit code is 1 where they differ."""
    deviations = expected.compare(file, expected.results_of(file, out))
    for own in deviations:
        console.print(
            f"{own.settings}: {own.number} {own.measured:.4f}, "
            f"expected {own.expected:.4f} ± {own.tolerance:.4f}"
        )
    if deviations:
        raise typer.Exit(1)
    console.print("all numbers are as expected")


@expected_app.command("tables")
def expected_tables(
    readme: Annotated[Path, typer.Argument(help="File with the tables.")] = Path("README.md"),
    folder: Annotated[Path, typer.Argument(help="Folder of the files.")] = Path("experiments"),
) -> None:
    """Rebuild README's tables from the expected files."""
    console.print(f"rebuilt {', '.join(expected.write_readme(readme, folder))}")


@app.command("list")
def list_(
    kind: Annotated[catalogue.Kind, typer.Argument(help="What to list.")],
) -> None:
    """List plug-ins, datasets or models: one line and the source of each."""
    console.print(tables.listing(catalogue.entries(kind)))


@data_app.command("list")
def data_list() -> None:
    """List the datasets, and whether they are here."""
    console.print(tables.listing(doctor.datasets()))


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a dataset.")],
    path: Annotated[str | None, typer.Option(help="Folder that holds its files.")] = None,
) -> None:
    """Get a dataset into the cache, and check it."""
    dataset = load(name, path)
    console.print(f"{name}: {len(dataset.train_labels)} + {len(dataset.test_labels)} images")
    console.print(f"from {dataset.origin}", soft_wrap=True)


@app.command("doctor")
def doctor_() -> None:
    """Say what is installed, what was found, and how to get what is missing."""
    console.print(tables.listing(doctor.findings()))


def main() -> None:
    """Run the command line; the exit code is 0, 1 (a run failed) or 2 (a wrong request)."""
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except RequestError as error:
        _stop(f"error: {' '.join(str(error).split())}", 2)
    except RunFailedError as error:
        _stop(f"failed: {error}", 1)
    except OSError as error:
        if error.filename is None:
            raise
        _stop(f"failed: {error.strerror}: {error.filename}", 1)
    except Exception as error:
        show: Callable[[], str] | None = getattr(error, "format_message", None)
        if show is None:
            raise
        _stop(f"error: {show()}", 2)


def _stop(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    sys.exit(code)


def _read(
    file: Path, set_: list[str] | None, rounds: int | None, fallback: str | None
) -> experiment_file.ExperimentFile:
    overrides = [*(set_ or []), *([f"rounds={rounds}"] if rounds is not None else [])]
    content = experiment_file.read(file, overrides)
    data = content.experiment.data
    if fallback is None or data.dataset == fallback:
        return content
    try:
        load(data.dataset, data.path)
    except MissingDataError as error:
        _warn_loudly(data.dataset, fallback, error)
        sizes = ["data.num_samples=none", "data.num_test=none"]
        overrides += [f"data.dataset={fallback}", "data.path=none", *sizes]
        return experiment_file.read(file, overrides)
    return content


def _warn_loudly(missing: str, fallback: str, error: MissingDataError) -> None:
    console.rule(f"[bold red]{missing} IS NOT HERE: RUNNING ON {fallback.upper()} INSTEAD")
    console.print(f"[red]{error}", soft_wrap=True)
    console.rule()


def _judge(folder: Path, verdict: Verdict) -> None:
    for problem in verdict.problems:
        console.print(problem, soft_wrap=True, markup=False)
    if verdict.problems:
        _stop(f"failed: {len(verdict.problems)} problems in {folder}", 1)
    against = "hashes, labels and radius" if verdict.compared else "hashes and labels"
    rest = "" if verdict.compared else "; give the originals as INPUT to check the radius"
    console.print(f"{verdict.num_images} images are as protected: {against}{rest}", soft_wrap=True)


def _seeds(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"--seeds takes numbers such as 0,1,2; got {text!r}") from None


def _workers(workers: int | None) -> int:
    return workers or len(os.sched_getaffinity(0))


def _carry_out(cells: list[runner.Cell], options: runner.Options, mode: Mode) -> None:
    try:
        with live_progress(console, len(runner.plan(cells, options)), mode) as listen:
            results = runner.run_cells(cells, options, listen)
    except KeyboardInterrupt:
        _stop("interrupted at once; go on with --resume", 130)
    if interrupts.wanted():
        _stop("interrupted after the round at hand; go on with --resume", 130)
    _show(results, Console(stderr=True) if mode == "json" else console)
    if not results.complete:
        raise typer.Exit(1)


def _show(results: Results, where: Console = console) -> None:
    from fl_sim.report import page  # drawing takes a second to import; a run should start now

    where.print(tables.summary(results))
    where.print(f"report: {page.write(results)}", soft_wrap=True)


if __name__ == "__main__":
    main()
