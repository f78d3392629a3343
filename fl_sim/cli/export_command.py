"""Commands that write finished runs in the formats of other libraries."""

from pathlib import Path
from typing import Annotated

from typer import Argument

from fl_sim.cli import terminal
from fl_sim.cli.terminal import importing
from fl_sim.core.errors import RequestError
from fl_sim.core.locks import refuse_link, refuse_unreadable, refuse_unwritable


def export_adapter(
    run: Annotated[Path, Argument(help="Folder of a finished run with model.tune=lora.")],
    out: Annotated[Path, Argument(help="Folder of the adapter; it is created.")],
) -> None:
    """Write the low-rank changes and the head of a finished run as an adapter of peft."""
    with importing():
        from fl_sim.audit.target_run import load_model, read_experiment
        from fl_sim.federation.federation import load_federation
        from fl_sim.models.adapters import write_adapter
        from fl_sim.models.parameters import copy_buffers
        from fl_sim.results import read_result

    refuse_unreadable(run)
    refuse_link(out)
    result = read_result(run)
    if result is None:
        raise RequestError(f"{run} is not a finished run: it has no result")
    experiment = read_experiment(run, result)
    federation = load_federation(experiment.to_json())
    load_model(federation, run, result.get("params_sha256"))
    if copy_buffers(federation.model):
        raise RequestError("statistics of BatchNorm were trained, which an adapter cannot hold")
    try:
        out.mkdir(parents=True, exist_ok=True)
        refuse_unwritable(out)
        write_adapter(federation.model, experiment.model, out)
    except OSError as error:
        raise RequestError(f"cannot write to {out}: {error.strerror}") from None
    terminal.console.print(f"wrote {out}", soft_wrap=True)
