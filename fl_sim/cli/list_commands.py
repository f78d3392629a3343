"""Commands that list plug-ins, datasets, and the state of this machine."""

from typing import Annotated, get_args

from typer import Argument, Option

from fl_sim.cli.terminal import console, importing
from fl_sim.core.literals import Kind

KINDS = ", ".join(get_args(Kind))


def list_(
    kind: Annotated[Kind, Argument(metavar="KIND", help=f"Kind of the entries: {KINDS}.")],
) -> None:
    """List all entries of a kind with their sources; plug-ins also with their module and fields."""
    with importing():
        from fl_sim.cli import catalogue
        from fl_sim.report import tables
    console.print(tables.build_listing(catalogue.list_entries(kind)))


def data_list() -> None:
    """List all datasets, and whether they are on this machine."""
    with importing():
        from fl_sim.cli import doctor
        from fl_sim.report import tables
    console.print(tables.build_listing(doctor.find_datasets()))


def data_fetch(
    name: Annotated[str, Argument(help="Name of a dataset, as in `fl-sim data list`.")],
    path: Annotated[str | None, Option(help="Folder that already holds its files.")] = None,
) -> None:
    """Fetch a dataset into the cache, and check its files."""
    with importing():
        from fl_sim.data.sources import load_dataset
    dataset = load_dataset(name, path)
    console.print(f"{name}: {len(dataset.train_labels)} + {len(dataset.test_labels)} images")
    console.print(f"from {dataset.origin}", soft_wrap=True)
    for note in dataset.notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def doctor_() -> None:
    """Check this machine: packages, workers, datasets, weights, and how to get missing ones."""
    with importing():
        from fl_sim.cli import doctor
        from fl_sim.report import tables
    console.print(tables.build_listing(doctor.inspect_machine()))
