"""Outputs of a finished run: all files that the report and audits need."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fl_sim.backends.base import Backend
from fl_sim.core import atomic_io
from fl_sim.core.tensor_files import write_tensors
from fl_sim.federation.federation import Federation
from fl_sim.metrics.leakage import loss_score, margin_score
from fl_sim.models.parameters import select_statistics
from fl_sim.results import FILES, MODEL, RESULT, ROWS, make_rows_table, summarise_rows
from fl_sim.rounds.state import State
from fl_sim.runs.memory import MIB
from fl_sim.runs.run_log import RunLog

NUM_SAMPLES = 8  # images that are shown in the report


def write_outputs(
    federation: Federation,
    state: State,
    log: RunLog,
    backend: Backend,
    folder: Path,
    predicted: int,
    details: dict[str, Any],
) -> dict[str, Any]:
    """Write the results of a run, `result.json` last, and return its content.

    Args:
        federation: The federation.
        state: State after the last round.
        log: All rows and failures.
        backend: Backend that scores every record under the final model.
        folder: Folder of the run.
        predicted: Predicted peak memory, in bytes.
        details: Further entries of the result, such as the engine and the seconds.
    """
    experiment, table = federation.experiment, make_rows_table(log.rows())
    atomic_io.write_table(folder / ROWS, table)
    atomic_io.write_table(folder / "signals.parquet", _score_records(federation, state, backend))
    failures = [failure._asdict() for failure in log.failures()]
    atomic_io.write_json(folder / "failures.json", failures)
    _save_samples(folder / "samples.npz", federation)
    write_tensors(folder / MODEL, {"parameters": state.parameters, **state.buffers}, {})
    numbers = summarise_rows(table)
    numbers["cost"] |= {"peak_mib": backend.peak_memory() / MIB, "predicted_mib": predicted / MIB}
    result = {
        "experiment": experiment.name,
        "run_id": experiment.run_id,
        "seed": experiment.seed,
        "status": "finished",
        "rounds": state.round,
        "dataset": federation.dataset.name,
        "origin": federation.dataset.origin,
        "data_notes": list(federation.dataset.notes),
        "num_parameters": len(state.parameters),
        "num_frozen": _count_frozen(federation, state),
        "cohort": state.batch_clients,
        **details,
        **numbers,
        "params_sha256": hash_state(state),
        "failures": failures,
        "files": {name: atomic_io.hash_file(folder / name) for name in FILES},
    }
    result[atomic_io.SEAL] = atomic_io.write_sealed(folder / RESULT, result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    log.path.unlink(missing_ok=True)
    return result


def _count_frozen(federation: Federation, state: State) -> int:
    """Return the number of values of the network that are neither trained nor sent."""
    whole = [*federation.frozen.state_dict().values(), *federation.model.state_dict().values()]
    statistics = select_statistics(state.buffers).values()
    sent = len(state.parameters) + sum(buffer.numel() for buffer in statistics)
    return sum(int(value.numel()) for value in whole) - sent


def hash_state(state: State) -> str:
    """Return a hash of the bits of a state's parameters and buffers."""
    return hash_parameters(state.parameters, state.buffers)


def hash_parameters(parameters: Tensor, buffers: Mapping[str, Tensor]) -> str:
    """Return a hash of the bits of parameters and buffers."""
    sha = hashlib.sha256(parameters.numpy().tobytes())
    for name in sorted(buffers):
        sha.update(buffers[name].contiguous().numpy().tobytes())
    return sha.hexdigest()


def _score_records(federation: Federation, state: State, backend: Backend) -> pd.DataFrame:
    """Return one row per record: its scores under the final model, client, label and membership."""
    scores = backend.score(state.parameters, state.buffers, {"all": federation.inputs})["all"]
    pool = federation.pool
    columns = {
        "sample_id": torch.arange(len(pool.labels)),
        "client": pool.clients,
        "label": pool.labels,
        "member": federation.trained,
        "audited": pool.audited,
        "protected": pool.protected,
        "loss": -loss_score(scores, pool.labels),
        "margin": margin_score(scores, pool.labels),
        "correct": scores.argmax(1) == pool.labels,
    }
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def _save_samples(path: Path, federation: Federation) -> None:
    """Save a few images, clean and as published, and the number of records by client and class."""
    pool = federation.pool
    # The first record of each class, of protected ones alone if there are any.
    candidates = pool.protected.nonzero().squeeze(1)
    if len(candidates) == 0:
        candidates = torch.arange(len(pool.labels))
    labels = pool.labels[candidates]
    rows = torch.stack([candidates[labels == c][0] for c in labels.unique()])[:NUM_SAMPLES]
    arrays = {
        "clean": pool.clean_images[rows].numpy(),
        "published": pool.noisy_images[rows].numpy(),
        "labels": pool.labels[rows].numpy(),
        "class_names": np.array(federation.dataset.class_names),
        "client_classes": federation.class_counts.numpy(),
        "protected": federation.protected_counts.numpy(),
    }
    atomic_io.write_arrays(path, arrays, compressed=False)
