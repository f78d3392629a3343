"""The commands that say what there is: plug-ins, datasets, and what is installed."""

from typing import Annotated, get_args

import typer

from fl_sim.cli.terminal import console, importing
from fl_sim.core.literals import Kind

KINDS = ", ".join(get_args(Kind))


def list_(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help=f"One of {KINDS}.")],
) -> None:
    """List what there is, with sources; of plug-ins also the module to import, and the fields."""
    with importing():
        from fl_sim.cli import catalogue
        from fl_sim.report import tables
    console.print(tables.build_listing(catalogue.list_entries(kind)))


def data_list() -> None:
    """List the datasets, and whether they are here."""
    with importing():
        from fl_sim.cli import doctor
        from fl_sim.report import tables
    console.print(tables.build_listing(doctor.find_datasets()))


def data_fetch(
    name: Annotated[str, typer.Argument(help="Name of a dataset.")],
    path: Annotated[str | None, typer.Option(help="Folder that holds its files.")] = None,
) -> None:
    """Get a dataset into the cache, and check it."""
    with importing():
        from fl_sim.data.sources import load_dataset
    dataset = load_dataset(name, path)
    console.print(f"{name}: {len(dataset.train_labels)} + {len(dataset.test_labels)} images")
    console.print(f"from {dataset.origin}", soft_wrap=True)
    for note in dataset.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def doctor_() -> None:
    """Say what is installed, what was found, and how to get what is missing."""
    with importing():
        from fl_sim.cli import doctor
        from fl_sim.report import tables
    console.print(tables.build_listing(doctor.inspect_machine()))
