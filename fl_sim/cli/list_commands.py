"""Commands that list plug-ins, datasets, and the state of this machine."""

import json
from collections.abc import Iterable
from typing import Annotated, get_args

from typer import Argument, Option

from fl_sim.cli import terminal
from fl_sim.cli.terminal import importing
from fl_sim.core.literals import Kind

KINDS = ", ".join(get_args(Kind))
Json = Annotated[bool, Option("--json", help="Print a JSON list, for programs.")]


def print_entries(entries: Iterable[tuple[str, ...]], as_json: bool) -> None:
    """Print a list: for people on a terminal, one line an entry into a pipe, or as JSON."""
    if as_json:
        names = ("name", "text", "source", "use")
        records = [dict(zip(names, entry, strict=False)) for entry in entries]
        print(json.dumps(records, indent=2, ensure_ascii=False))
    elif terminal.console.is_terminal:
        from fl_sim.report import tables

        terminal.console.print(tables.build_listing(entries))
    else:
        for entry in entries:
            print("\t".join(" ".join(part.split()) for part in entry))


def list_(
    kind: Annotated[Kind, Argument(metavar="KIND", help=f"Kind of the entries: {KINDS}.")],
    as_json: Json = False,
) -> None:
    """List all entries of a kind with their sources; plug-ins also with their module and fields.

    Into a pipe, each entry is one line, its parts separated by tabs.
    """
    with importing():
        from fl_sim.cli import catalogue
    print_entries(catalogue.list_entries(kind), as_json)


def describe(
    name: Annotated[
        str,
        Argument(
            metavar="NAME",
            help="Plug-in, such as strategy.Krum or client.sgd, or the file of an experiment.",
        ),
    ],
) -> None:
    """Print the fields of a plug-in and its source, or the scenario of an experiment."""
    with importing():
        from fl_sim.cli import descriptions
    for line in descriptions.describe_lines(name):
        terminal.console.print(line, soft_wrap=True, markup=False, highlight=False)


def data_list(as_json: Json = False) -> None:
    """List all datasets, and whether they are on this machine."""
    with importing():
        from fl_sim.cli import doctor
    print_entries(doctor.find_datasets(), as_json)


def data_fetch(
    name: Annotated[str, Argument(help="Name of a dataset, as in `fl-sim data list`.")],
    path: Annotated[str | None, Option(help="Folder that already holds its files.")] = None,
) -> None:
    """Fetch a dataset from its publisher into the cache, and check its files.

    Without a network, the error says where to put them.
    """
    with importing():
        from fl_sim.cli.bars import show_download
        from fl_sim.data.sources import find_source, load_dataset
    if path is None:
        with show_download(terminal.console, name) as listen:
            find_source(name).fetch(listen)
    dataset = load_dataset(name, path)
    terminal.console.print(
        f"{name}: {len(dataset.train_labels)} + {len(dataset.test_labels)} images"
    )
    terminal.console.print(f"from {dataset.origin}", soft_wrap=True)
    for note in dataset.notes:
        terminal.console.print(f"note: {note}", soft_wrap=True, markup=False)


def doctor_(as_json: Json = False) -> None:
    """Check this machine: packages, workers, datasets, weights, and how to get missing ones."""
    with importing():
        from fl_sim.cli import doctor
    print_entries(doctor.inspect_machine(), as_json)
