"""One run from start to finish: grid, loop, checkpoints, results."""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flwr
import numpy as np
import pandas as pd
import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from jaxtyping import Int64
from safetensors.torch import save
from torch import Tensor

from fl_sim.engine import client_app, compat
from fl_sim.engine.checkpoint import load_state, save_state
from fl_sim.engine.federation import Federation, Pool, federation
from fl_sim.engine.local_grid import LocalGrid
from fl_sim.engine.loop import State, initial_state, rounds
from fl_sim.engine.measure import logits
from fl_sim.engine.strategy import as_flower
from fl_sim.experiment import Experiment
from fl_sim.metrics.leakage import loss_score, margin_score
from fl_sim.models import parameters
from fl_sim.results import (
    final_numbers,
    read_result,
    rows_table,
    write_bytes,
    write_json,
    write_table,
)

Engine = Literal["local", "flower"]
SHOWN = 8  # images on the sheet of the report


class Progress(NamedTuple):
    """Where a run stands: after a round, or with what it is busy."""

    key: str
    label: str
    round: int
    rounds: int
    clients: int
    accuracy: float


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class Session:
    """How to run an experiment, as far as it does not change the numbers.

    Attributes:
        folder: where results go.
        engine: `local`, in this process, or `flower`, Flower's simulation engine on Ray.
        workers: Ray actors of the `flower` engine.
        resume: go on from the newest checkpoint; leave a finished run alone.
        client_app: a Flower ClientApp that stands in for the experiment's clients.
    """

    folder: Path
    engine: Engine = "local"
    workers: int = 1
    resume: bool = False
    client_app: ClientApp | None = None


def run_session(
    experiment: Experiment, session: Session, label: str, listen: Listener
) -> dict[str, Any]:
    """Run an experiment and return its headline numbers, which are also on disk.

    Raises:
        RequestError: before anything is written.
        RunFailedError: where the failure policy ends the run; its checkpoints stay.
    """
    torch.set_num_threads(1)  # the same everywhere: reductions depend on it
    finished = read_result(session.folder) if session.resume else None
    if finished is not None:
        listen(_progress(experiment, session, label, finished["rounds"], finished["accuracy"]))
        return finished
    ours = federation(experiment.to_json())
    open_folder(experiment, session)
    if session.engine == "local":
        app = session.client_app or client_app.app
        return drive(ours, LocalGrid(app, experiment.data.num_clients), session, label, listen)
    outcome: list[dict[str, Any]] = []
    compat.simulate(
        lambda grid: outcome.append(drive(ours, grid, session, label, listen)),
        session.client_app or client_app.app,
        num_nodes=experiment.clients_per_round,
        num_workers=session.workers,
    )
    return outcome[0]


def drive(
    ours: Federation, grid: Grid, session: Session, label: str, listen: Listener
) -> dict[str, Any]:
    """Run the rounds that are left over a grid, and write the results."""
    experiment, started = ours.experiment, time.time()
    checkpoints = session.folder / "checkpoints"
    strategy = as_flower(_fresh(experiment).strategy)
    state = initial_state(ours, strategy)
    if session.resume:
        state = load_state(checkpoints, strategy) or state
    _await_nodes(grid)
    for _ in rounds(ours, state, grid):
        save_state(checkpoints, state)
        accuracy = next(row.value for row in reversed(state.rows) if row.metric == "accuracy")
        listen(_progress(experiment, session, label, state.round, accuracy))
    return _finish(ours, state, session, time.time() - started)


def _progress(
    experiment: Experiment, session: Session, label: str, number: int, accuracy: float
) -> Progress:
    clients = experiment.clients_per_round
    return Progress(str(session.folder), label, number, experiment.rounds, clients, accuracy)


def _fresh(experiment: Experiment) -> Experiment:
    """Return a copy whose Flower strategy, if it has one, remembers nothing."""
    return Experiment.from_json(experiment.to_json())


def _await_nodes(grid: Grid) -> None:
    """Wait until nodes have registered: Flower starts the server before them."""
    deadline = time.time() + 120
    while not list(grid.get_node_ids()):
        if time.time() > deadline:
            raise RuntimeError("no node registered within two minutes")
        time.sleep(0.1)


def open_folder(experiment: Experiment, session: Session) -> None:
    """Start a run's folder: anew, or where it stands when resuming."""
    if not session.resume:
        shutil.rmtree(session.folder, ignore_errors=True)
    session.folder.mkdir(parents=True, exist_ok=True)
    write_json(session.folder / "experiment.json", json.loads(experiment.to_json()))
    write_json(session.folder / "environment.json", environment(session.engine))


def environment(engine: str) -> dict[str, Any]:
    """Return what the bits of a run depend on beside the experiment."""
    return {
        "fl_sim": version("fl-sim"),
        "commit": _commit(),
        "engine": engine,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "flwr": flwr.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
    }


def _commit() -> str:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _finish(ours: Federation, state: State, session: Session, seconds: float) -> dict[str, Any]:
    """Write everything that the report and later audits need; `result.json` comes last."""
    folder, experiment = session.folder, ours.experiment
    table = rows_table(state.rows)
    write_table(folder / "rows.parquet", table)
    write_table(folder / "signals.parquet", _signals(ours, state))
    failures = [failure._asdict() for failure in state.failures]
    write_json(folder / "failures.json", failures)
    _save_samples(folder / "samples.npz", ours)
    tensors = {"parameters": state.parameters, **state.buffers}
    write_bytes(folder / "model.safetensors", save(tensors))
    result = {
        "experiment": experiment.name,
        "run_id": experiment.run_id,
        "seed": experiment.seed,
        "engine": session.engine,
        "status": "finished",
        "rounds": state.round,
        "dataset": ours.dataset.name,
        "origin": ours.dataset.origin,
        "num_parameters": len(state.parameters),
        **final_numbers(table),
        "params_sha256": sha256_of(state),
        "failures": failures,
        "wall_seconds": seconds,
    }
    write_json(folder / "result.json", result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return result


def sha256_of(state: State) -> str:
    """Return a hash of the final parameters and buffers: equal hashes, equal bits."""
    sha = hashlib.sha256(state.parameters.numpy().tobytes())
    for name in sorted(state.buffers):
        sha.update(state.buffers[name].contiguous().numpy().tobytes())
    return sha.hexdigest()


def _signals(ours: Federation, state: State) -> pd.DataFrame:
    """Return one row a record: its scores under the final model, and who it is."""
    parameters.load_flat(ours.model, state.parameters)
    parameters.load_buffers(ours.model, state.buffers)
    scores, pool = logits(ours.model, ours.inputs), ours.pool
    columns = {
        "sample_id": torch.arange(len(pool.labels)),
        "client": pool.clients,
        "label": pool.labels,
        "member": ours.trained,
        "audited": pool.audited,
        "protected": pool.protected,
        "loss": -loss_score(scores, pool.labels),
        "margin": margin_score(scores, pool.labels),
        "correct": scores.argmax(1) == pool.labels,
    }
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def _save_samples(path: Path, ours: Federation) -> None:
    """Save a few images, clean and as published, and who holds how many of which class."""
    pool = ours.pool
    rows = _one_of_each_class(pool)[:SHOWN]
    content = io.BytesIO()
    np.savez(
        content,
        clean=pool.clean_images[rows].numpy(),
        published=pool.noisy_images[rows].numpy(),
        labels=pool.labels[rows].numpy(),
        class_names=np.array(ours.dataset.class_names),
        client_classes=ours.class_counts().numpy(),
        protected=ours.protected_counts().numpy(),
    )
    write_bytes(path, content.getvalue())


def _one_of_each_class(pool: Pool) -> Int64[Tensor, " m"]:
    """Return the first record of each class, a protected one where there is any."""
    candidates = pool.protected.nonzero().squeeze(1)
    if len(candidates) == 0:
        candidates = torch.arange(len(pool.labels))
    own = pool.labels[candidates]
    return torch.stack([candidates[own == label][0] for label in own.unique()])
