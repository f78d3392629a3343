"""Commands that work on finished runs: report, audit, and comparison with expected results."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from fl_sim.cli import terminal
from fl_sim.cli.run_commands import Deterministic, DeviceOption
from fl_sim.cli.terminal import importing, print_error
from fl_sim.core.errors import RequestError
from fl_sim.core.locks import refuse_link, refuse_unreadable, refuse_unwritable

RUNS, STUDY = "summary.json", "study.json"  # as in `fl_sim.results`, which takes a second to import
Out = Annotated[Path, Option(help="Folder that results are read from.")]
ExpectedFile = Annotated[
    Path, Argument(help="File of expected results, experiments/<name>.expected.json.")
]
INDEX, EXPERIMENTS = Path("docs/experiments.md"), Path("experiments")


def report(
    path: Annotated[
        Path, Argument(help="Folder of all results, such as runs/, or of one experiment.")
    ],
) -> None:
    """Rebuild the tables, figures and report page of finished runs."""
    refuse_unreadable(path)
    folders = [path, *sorted(path.glob("*/"))]
    folders = [f for f in folders if (f / RUNS).exists() or (f / STUDY).exists()]
    if not folders:
        raise RequestError(f"no results in {path}")
    undamaged = [_report(folder, alone=len(folders) == 1) for folder in folders]
    if not all(undamaged):
        raise typer.Exit(1)


def compare(
    a: Annotated[Path, Argument(help="Folder of an experiment, or of one run, EXPERIMENT/RUN_ID.")],
    b: Annotated[Path, Argument(help="Another, whose differences to the first are printed.")],
    quantity: Annotated[
        list[str] | None, Option("--quantity", "-q", help="Quantity to compare; repeatable.")
    ] = None,
) -> None:
    """Compare two runs or sweeps by paired differences over their common seeds."""
    for path in (a, b):
        refuse_unreadable(path)
    with importing():
        from fl_sim.report.tables import build_comparison_table
        from fl_sim.results import compare as compare_results
        from fl_sim.results import load_run

    results = load_run(a), load_run(b)
    table = compare_results(*results, *(quantity or ()))
    terminal.console.print(build_comparison_table(str(a), str(b), table))
    terminal.report_damage([line for each in results for line in each.damaged])


def watch(
    path: Annotated[Path, Argument(help="Folder of one experiment, such as runs/quickstart.")],
    port: Annotated[
        int, Option(min=0, max=65535, help="Port of 127.0.0.1; 0 takes one that is free.")
    ] = 0,
    until_finished: Annotated[
        bool, Option("--until-finished", help="End when the sweep in the folder has ended.")
    ] = False,
) -> None:
    """Serve the report page to this machine, and renew it while a sweep runs."""
    refuse_unreadable(path)
    if path.is_file():
        raise RequestError(f"{path} is a file; give the folder of an experiment")
    found = [file.parent for file in sorted(path.glob(f"*/{RUNS}"))]
    if len(found) > 1 and not (path / RUNS).exists():
        names = ", ".join(map(str, found))
        raise RequestError(f"{path} has several experiments; give one of {names}")
    path = path if (path / RUNS).exists() or not found else found[0]
    with importing():
        from fl_sim.report.watch import serve

    def announce(address: str) -> None:
        terminal.console.print(f"{path} is shown at {address}; Ctrl-C ends this", soft_wrap=True)

    try:
        serve(path, port, until_finished, announce)
    except KeyboardInterrupt:
        terminal.console.print("ended", highlight=False)


def _report(folder: Path, alone: bool) -> bool:
    """Report on a folder; return whether all of its files are undamaged."""
    with importing():
        from fl_sim.cli.show import show
        from fl_sim.results import load_results, load_study

    try:
        if not alone:
            refuse_link(folder)
        for target in (folder / "figures", folder / "export"):
            refuse_link(target)
        for target in (folder, folder / "figures", folder / "export"):
            refuse_unwritable(target, "report")
        results = load_study(folder) if (folder / STUDY).exists() else load_results(folder)
        show(results)
        return not results.damaged
    except RequestError as error:
        if alone:
            raise
        print_error(f"error: {error}")
        return False


def audit(
    path: Annotated[
        Path, Argument(help="Folder of a finished run, or of an experiment for all its runs.")
    ],
    tier: Annotated[
        int,
        Option(
            min=0,
            max=2,
            help="Reference models of the attacks: 0 for none, 1 for a few, 2 for many, and LiRA.",
        ),
    ] = 1,
    references: Annotated[
        int | None,
        Option(min=2, help="Number of reference models.", show_default="by tier and run"),
    ] = None,
    device: DeviceOption = "auto",
    deterministic: Deterministic = True,
) -> None:
    """Audit finished runs for membership leakage; an interrupted audit is continued."""
    with importing():
        from fl_sim.audit.session import audit as run_audit
        from fl_sim.audit.session import find_run_folders
        from fl_sim.cli import execution
        from fl_sim.cli.bars import show_audit_progress
        from fl_sim.core.atomic_io import DamagedFileError
        from fl_sim.core.device import use_device
        from fl_sim.report import page, tables
        from fl_sim.results import load_results

    refuse_unreadable(path)
    execution.announce_device(device)
    folders, damaged = find_run_folders(path), []
    labels = _label_runs(folders)
    for folder in folders:
        for part in (folder.parent, folder) if folder != path else ():
            refuse_link(part)
        refuse_unwritable(folder, "audit")
    with (
        use_device(device, deterministic=deterministic),
        show_audit_progress(terminal.console, len(folders)) as (listen, note, finished),
    ):
        for folder in folders:
            try:
                findings = run_audit(folder, tier, references, listen=listen, note=note)
            except DamagedFileError as error:
                if len(folders) == 1:
                    raise
                damaged.append(str(error))
                continue
            title = " · ".join([*filter(None, [labels.get(folder.resolve())]), str(folder)])
            finished(tables.build_audit_table(title, findings))
    for line in damaged:
        print_error(f"damaged: {line}; the run was not audited")
    for root in sorted({folder.parents[1] for folder in folders}):
        if (root / "summary.json").exists():
            terminal.console.print(f"report: {page.write_page(load_results(root))}", soft_wrap=True)
    if damaged:
        raise typer.Exit(1)


def _label_runs(folders: list[Path]) -> dict[Path, str]:
    """Return the values of the axes of each run of a sweep, by its folder."""
    from fl_sim.report.grid import build_grid
    from fl_sim.results import load_results

    labels = dict[Path, str]()
    for root in {folder.resolve().parents[1] for folder in folders}:
        if (root / RUNS).exists():
            for setting in build_grid(load_results(root)).finished:
                labels |= {f.resolve(): setting.label for f in setting.folders.values()}
    return labels


def expected_record(
    file: ExpectedFile,
    minutes: Annotated[float, Option(help="Wall-clock minutes that the runs took.")],
    out: Out = Path("runs"),
) -> None:
    """Write the results of an experiment into its file of expected results."""
    with importing():
        from fl_sim.report import expected

    expected.record(file, expected.load_measured(file, out), minutes)
    terminal.console.print(f"wrote {file}", soft_wrap=True)


def expected_compare(file: ExpectedFile, out: Out = Path("runs")) -> None:
    """Compare results with the expected ones; the exit code is 1 if they differ."""
    with importing():
        from fl_sim.report import expected

    deviations = expected.compare(file, expected.load_measured(file, out))
    for deviation in deviations:
        terminal.console.print(
            f"{deviation.settings}: {deviation.number} {deviation.measured:.4f}, "
            f"expected {deviation.expected:.4f} ± {deviation.tolerance:.4f}"
        )
    if deviations:
        raise typer.Exit(1)
    terminal.console.print("all numbers are as expected")


def expected_tables(
    index: Annotated[Path, Argument(help="Markdown file of the index.")] = INDEX,
    folder: Annotated[Path, Argument(help="Folder of expected results.")] = EXPERIMENTS,
) -> None:
    """Rebuild the index of experiments, a page for each, and the gallery, from expected results."""
    with importing():
        from fl_sim.report import expected, gallery, reported

    names = expected.write_pages(index, folder)
    if (folder / reported.FILE).exists():
        names.append(reported.write_page(index.parent, folder))
    names.append(gallery.write(index.with_name("gallery.md"), folder))
    terminal.console.print(f"rebuilt {', '.join(names)}")
