"""Commands that write finished runs, and the parts of their report, in other formats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from fl_sim.cli import terminal
from fl_sim.cli.terminal import importing
from fl_sim.core.errors import RequestError, require
from fl_sim.core.locks import refuse_link, refuse_unreadable, refuse_unwritable

if TYPE_CHECKING:
    from fl_sim.federation.federation import Federation

Folder = Annotated[Path, Argument(help="Folder of the results of an experiment or a study.")]
Out = Annotated[
    Path | None, Option(help="Folder that is written to.", show_default="export in that folder")
]
Names = Annotated[
    list[str] | None,
    Option("--name", "-n", metavar="NAME", help="Name, or pattern such as 'audit_*'; repeatable."),
]


def export_tables(path: Folder, out: Out = None, names: Names = None) -> None:
    """Write the tables of a report as CSV and as LaTeX with booktabs."""
    _export_parts(path, out, names, "Table")


def export_figures(path: Folder, out: Out = None, names: Names = None) -> None:
    """Write the figures of a report as PDF and as SVG, with text that can be searched."""
    _export_parts(path, out, names, "Drawing")


def _export_parts(path: Path, out: Path | None, names: list[str] | None, kind: str) -> None:
    """Write the tables or the figures of a report, and print the path of each file."""
    with importing():
        from fl_sim.report import components, export
        from fl_sim.report.content import read_content

    refuse_unreadable(path)
    folder = path / export.FOLDER if out is None else out
    refuse_link(folder)
    refuse_unwritable(folder)
    content, chosen = read_content(path), getattr(components, kind)
    parts = export.select_parts(export.list_parts(content.sections), chosen, names or ())
    for file in export.write_parts(folder, parts):
        terminal.console.print(f"wrote {file}", soft_wrap=True, highlight=False)
    terminal.report_damage(content.damaged)


def export_adapter(
    run: Annotated[Path, Argument(help="Folder of a finished run with model.tune=lora.")],
    out: Annotated[Path, Argument(help="Folder of the adapter; it is created.")],
) -> None:
    """Write the low-rank changes and the head of a finished run as an adapter of peft."""
    with importing():
        from fl_sim.models.adapters import write_adapter
        from fl_sim.models.parameters import copy_buffers

    refuse_link(out)
    federation = _load_finished(run)
    trained = federation.model
    try:
        write_adapter(trained, federation.experiment.model, out, bool(copy_buffers(trained)))
    except OSError as error:
        raise RequestError(f"cannot write to {out}: {error.strerror}") from None
    terminal.console.print(f"wrote {out}", soft_wrap=True)


def export_model(
    run: Annotated[Path, Argument(help="Folder of a finished run.")],
    out: Annotated[Path, Argument(help="File, which ends in .safetensors.")],
) -> None:
    """Write the network of a finished run as a state dict under the names of its package.

    Low-rank changes are added to the weights. init=checkpoint reads the file, and so does
    load_state_dict of the network of timm, torchvision or the user.
    """
    with importing():
        from fl_sim.core.tensor_files import write_tensors
        from fl_sim.models.export import collect_state, describe_inputs
        from fl_sim.models.tuning import build_network

    require(out.suffix == ".safetensors", "OUT", "a file that ends in .safetensors", str(out))
    refuse_link(out)
    refuse_unwritable(out.parent, "OUT")
    federation = _load_finished(run)
    model, seed = federation.experiment.model, federation.experiment.seed
    dataset = federation.dataset
    _, channels, height, width = dataset.train_images.shape
    network = build_network(model, (channels, height, width), dataset.num_classes, seed)
    network.frozen.load_state_dict(federation.frozen.state_dict())
    network.trained.load_state_dict(federation.model.state_dict())
    state, inputs = collect_state(network), describe_inputs(network)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        about = {"backbone": model.backbone, "num_classes": str(dataset.num_classes)}
        write_tensors(out, state, {"format": "pt", **about, **inputs})
    except OSError as error:
        raise RequestError(f"cannot write {out}: {error.strerror}") from None
    terminal.console.print(f"wrote {out}: {len(state)} tensors of {model.backbone}", soft_wrap=True)
    words = "; ".join(f"{name} {value}" for name, value in inputs.items())
    terminal.console.print(f"its inputs: {words or 'pixels in [0, 1]'}", soft_wrap=True)


def _load_finished(run: Path) -> "Federation":
    """Return the federation of a finished run, with the final parameters in its network.

    Raises:
        RequestError: If the folder is none of a finished run.
    """
    with importing():
        from fl_sim.audit.session import find_run_folders
        from fl_sim.audit.target_run import load_model, read_experiment
        from fl_sim.federation.federation import load_federation
        from fl_sim.results import read_result

    refuse_unreadable(run)
    result = read_result(run)
    if result is None:
        within = find_run_folders(run)
        raise RequestError(f"{run} has several levels; give the folder of a run: {within[0]}")
    experiment = read_experiment(run, result)
    federation = load_federation(experiment.to_json())
    load_model(federation, run, result.get("params_sha256"))
    return federation


def export_crate(
    path: Annotated[
        Path, Argument(help="Folder of a finished run, or of an experiment for all its runs.")
    ],
    licence: Annotated[
        str,
        Option("--license", metavar="NAME", help="Licence of the results, such as CC-BY-4.0."),
    ] = "",
) -> None:
    """Write ro-crate-metadata.json: files, hashes, software and licence of results."""
    with importing():
        from fl_sim.results.crate import METADATA, write_crate

    refuse_unreadable(path)
    refuse_link(path / METADATA)
    refuse_unwritable(path, "PATH")
    terminal.console.print(f"wrote {write_crate(path, licence)}", soft_wrap=True, highlight=False)
