"""Commands for plug-ins of one's own: files to start from, and the checks of their contracts."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from typer import Argument, Option

from fl_sim.cli.terminal import importing

NewKind = Literal["experiment", "strategy", "client", "protection", "metric"]


def new(
    kind: Annotated[
        NewKind | None,
        Argument(metavar="KIND", help="experiment, strategy, client, protection or metric."),
    ] = None,
    name: Annotated[
        str | None, Argument(metavar="NAME", help="Name of the class, such as MyRule.")
    ] = None,
    shipped: Annotated[
        str | None,
        Option("--from", metavar="EXPERIMENT", help="Copy a shipped experiment: quickstart."),
    ] = None,
    out: Annotated[Path, Option(help="Folder that the files are written to.")] = Path(),
) -> None:
    """Write a complete file of a plug-in or an experiment with its test, or copy an experiment.

    Nothing is overwritten.
    """
    with importing():
        from fl_sim.cli import templates
    for line in templates.write(kind, name, shipped, out):
        print(line)


def check(
    modules: Annotated[
        list[str], Argument(metavar="MODULE...", help="Modules or packages, by name or path.")
    ],
) -> None:
    """Run the conformance tests on plug-ins of your own; it needs pytest and hypothesis."""
    with importing():
        from fl_sim.cli import checks
    if not checks.run(modules):
        raise typer.Exit(1)
