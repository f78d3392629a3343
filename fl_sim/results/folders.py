"""Run folders: the names of their files, and checks that no file was changed.

<out>/<experiment>/summary.json             one entry per cell and per control
<out>/<experiment>/rows.parquet             every number of every run
<out>/<experiment>/<run_id>/seed=<s>/       experiment.json  environment.json  result.json
                                            rows.parquet  failures.json  signals.parquet
                                            samples.npz  model.safetensors  progress.jsonl
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.core import atomic_io
from fl_sim.core.atomic_io import SEAL, DamagedFileError

RESULT, ROWS, MODEL = "result.json", "rows.parquet", "model.safetensors"
FILES = (  # of a finished run, beside its result.json
    *("experiment.json", "environment.json", ROWS, "signals.parquet"),
    *("failures.json", "samples.npz", MODEL),
)
AUDIT, AUDIT_FINDINGS, AUDIT_RECORDS = "audit.json", "audit.parquet", "audit_records.parquet"
NUMBER_GROUPS = ("leakage", "fairness", "rule", "epsilon", "detection", "cost", "protection")
NUMBER = (int, float, type(None))  # JSON has null for a number that is not defined
KINDS: dict[str, tuple[type, ...]] = {  # types of the fields of a run or a point, by name
    **dict.fromkeys(
        ("experiment", "run_id", "status", "label", "error", "engine", "device", "precision"),
        (str,),
    ),
    **dict.fromkeys(("dataset", "origin", "params_sha256", "data_sha256", SEAL), (str,)),
    **dict.fromkeys(
        ("question", "folder", "reason", "memory_note", "model_sha256", "plugins_sha256"), (str,)
    ),
    **dict.fromkeys(("planted_data_sha256", "protection_sha256"), (str,)),
    **dict.fromkeys(("seed", "rounds", "num_parameters", "num_frozen", "side_by_side"), (int,)),
    **dict.fromkeys(("accuracy", "best_accuracy", "loss", "wall_seconds"), NUMBER),
    **dict.fromkeys(("seconds", "cpu_seconds"), (int, float)),
    **dict.fromkeys(("seeds", "failures", "data_notes"), (list,)),
    **dict.fromkeys(
        ("settings", "made_with", "files", "numbers", "environment", *NUMBER_GROUPS), (dict,)
    ),
}


def run_folder(root: Path, run_id: str, seed: int) -> Path:
    """Return the folder of one run of an experiment."""
    return root / run_id / f"seed={seed}"


def read_result(
    folder: Path, key: tuple[str, int] | None = None, seal: str | None = None
) -> dict[str, Any] | None:
    """Return the content of a run's `result.json`, or None if the run has not finished.

    All its files are checked; those of earlier versions have no hashes and are only opened.

    Args:
        folder: Folder of the run.
        key: Expected run id and seed.
        seal: Expected hash of `result.json`.

    Raises:
        DamagedFileError: For the first file that is cut, missing, or was changed.
    """
    path = folder / RESULT
    if not path.exists():
        was_finished = (folder / MODEL).exists() and not (folder / "checkpoints").exists()
        if was_finished or seal is not None:
            raise DamagedFileError(path, "is missing")
        return None
    result = atomic_io.read_json(path)
    is_other = key is not None and (result.get("run_id"), result.get("seed")) != key
    if is_other or (seal is not None and result.get(SEAL) != seal):
        raise DamagedFileError(path, "is of another run")
    check_entry(path, result, ("run_id", "seed", "accuracy", "best_accuracy", "rounds"))
    atomic_io.check_files(folder, result.get("files"), FILES)
    return result


def check_entry(path: Path, entry: dict[str, Any], needed: Iterable[str]) -> None:
    """Check the names and types in an entry, which may come from a file without a hash.

    Args:
        path: Path of the file, for messages.
        entry: Result of a run, or an entry of a summary.
        needed: Names that must be in it.

    Raises:
        DamagedFileError: For a name that is missing, or a value of another type than is written.
    """
    for name in needed:
        if name not in entry:
            raise DamagedFileError(path, f"has no {name}")
    for name, value in entry.items():
        kinds = KINDS.get(name, (object,))
        is_kind = isinstance(value, kinds) and not (isinstance(value, bool) and int in kinds)
        if name in NUMBER_GROUPS and is_kind:
            is_kind = not any(isinstance(number, dict | list) for number in value.values())
        if name == "numbers" and is_kind:
            is_kind = all(n is None or type(n) in (int, float) for n in value.values())
        if name == "failures" and is_kind:
            is_kind = all(isinstance(failure, dict) for failure in value)
        if not is_kind:
            raise DamagedFileError(path, f"cannot hold {json.dumps(value)[:80]} as {name}")


def seal_audit(folder: Path, summary: dict[str, Any]) -> None:
    """Write the summary of an audit, with the hashes of its tables."""
    names = (AUDIT_FINDINGS, AUDIT_RECORDS)
    files = {name: atomic_io.hash_file(folder / name) for name in names}
    atomic_io.write_sealed(folder / AUDIT, {**summary, "files": files})


def read_audit(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]] | None:
    """Return an audit's findings, records and summary, or None if the run was not audited.

    Raises:
        DamagedFileError: If one of its files is damaged.
    """
    if not (folder / AUDIT).exists():
        return None
    summary = atomic_io.read_json(folder / AUDIT)
    atomic_io.check_files(folder, summary.get("files"), ())
    findings, records = (atomic_io.read_table(folder / n) for n in (AUDIT_FINDINGS, AUDIT_RECORDS))
    return findings, records, summary
