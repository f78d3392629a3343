"""The command that protects images before they are published, or checks protected ones."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from fl_sim.cli import terminal
from fl_sim.cli.run_commands import Deterministic, DeviceOption
from fl_sim.cli.terminal import importing, stop
from fl_sim.core.errors import RequestError


def protect(
    source: Annotated[
        Path | None,
        Argument(metavar="INPUT", help="Folder of images, or an .npz file, to protect."),
    ] = None,
    name: Annotated[
        str, Option("--method", help="Name of the protection, such as em, sem or lsp.")
    ] = "em",
    radius: Annotated[str | None, Option(help="Largest change of a pixel, such as 8/255.")] = None,
    out: Annotated[
        Path | None, Option(help="Folder that the protected images are written to.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="FIELD=VALUE", help="Change a field of the protection."),
    ] = None,
    seed: Annotated[int, Option(min=0, help="Seed of the noise; keep it secret.")] = 0,
    labels: Annotated[
        Path | None,
        Option(help="CSV file with the columns file,label.", show_default="class folders"),
    ] = None,
    side: Annotated[
        int | None,
        Option(min=8, help="Side in pixels at which noise for images of mixed sizes is made."),
    ] = None,
    split: Annotated[
        str | None, Option(help="Protect only this part, such as train.", show_default="all")
    ] = None,
    folders: Annotated[
        str | None,
        Option(
            help="Meaning of the levels of folders, such as split/label.", show_default="by name"
        ),
    ] = None,
    verify: Annotated[
        Path | None, Option("--check", metavar="DIR", help="Check this protected folder instead.")
    ] = None,
    small: Annotated[
        bool, Option("--small", help="Fewer steps than published, for sem and rem.")
    ] = False,
    device: DeviceOption = "auto",
    deterministic: Deterministic = True,
) -> None:
    """Protect images before they are published, or check that they are protected.

    It writes lossless copies and a manifest, and never changes the input. The same command again
    continues an interrupted one.
    """
    with importing():
        from fl_sim.cli import execution
        from fl_sim.cli.bars import show_stages
        from fl_sim.core.device import use_device
        from fl_sim.publish.check import check_protected, describe_result
        from fl_sim.publish.publish import publish, write_report
        from fl_sim.publish.request import Request, parse_method

    if verify is not None:
        with show_stages(terminal.console) as watch:
            verdict = check_protected(verify, source, watch)
        for problem in verdict.problems:
            terminal.console.print(problem, soft_wrap=True, markup=False)
        if verdict.problems:
            stop(f"failed: {len(verdict.problems)} problems in {verify}", 1)
        for line in describe_result(verdict):
            terminal.console.print(line, soft_wrap=True, markup=False, highlight=False)
        return
    if source is None or out is None:
        raise RequestError("protect needs an INPUT and --out DIR, or --check DIR")
    protection = parse_method(name, radius, set_ or [], small=small)
    request = Request(source, out, protection, seed, labels, side, split, folders)
    execution.announce_device(device)
    try:
        with (
            use_device(device, deterministic=deterministic),
            show_stages(terminal.console) as watch,
        ):
            manifest = publish(request, watch)
    except KeyboardInterrupt:
        stop("interrupted; the same command continues", 130)
    for name, value, note in write_report(manifest):
        terminal.console.print(f"{name:<16}{value:<12}{note}", soft_wrap=True, highlight=False)
    terminal.console.print(f"{out}: keep manifest.json and request.json secret", soft_wrap=True)
