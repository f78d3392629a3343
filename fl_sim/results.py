"""Results: a folder a run, written once and atomically, read back as one tidy table.

<out>/<experiment>/summary.json             one entry a cell, and one a control
<out>/<experiment>/rows.parquet             every number of every run
<out>/<experiment>/<run_id>/seed=<s>/       experiment.json  environment.json  result.json
                                            rows.parquet  failures.json  signals.parquet
                                            samples.npz  model.safetensors  progress.jsonl
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.atomic_io import (
    SEAL,
    DamagedFileError,
    check_files,
    file_sha256,
    read_json,
    read_table,
    write_sealed,
)
from fl_sim.atomic_io import write_bytes as write_bytes
from fl_sim.atomic_io import write_json as write_json
from fl_sim.atomic_io import write_table as write_table
from fl_sim.atomic_io import write_text as write_text
from fl_sim.errors import RequestError
from fl_sim.metrics.protection import extraction_ratio, utility_gap
from fl_sim.rows import Row

COSTS = ("seconds", "cpu_seconds", "bytes_down", "bytes_up")
SETTINGS = "settings."  # what the columns of a cell's settings begin with
RESULT, ROWS, MODEL = "result.json", "rows.parquet", "model.safetensors"
FILES = (  # of a finished run, beside its result.json
    "experiment.json",
    "environment.json",
    ROWS,
    "signals.parquet",
    "failures.json",
    "samples.npz",
    MODEL,
)
AUDIT, AUDIT_FINDINGS, AUDIT_RECORDS = "audit.json", "audit.parquet", "audit_records.parquet"
ABOUT = ("experiment", "run_id", "seed", "seeds", "settings", "label")
NUMBERS = ("leakage", "fairness", "rule", "epsilon", "detection", "cost", "protection")
NUMBER = (int, float, type(None))  # JSON has null for what is not defined
KINDS: dict[str, tuple[type, ...]] = {  # of what is told of a run, by name
    **dict.fromkeys(("experiment", "run_id", "status", "label", "error", "engine"), (str,)),
    **dict.fromkeys(("dataset", "origin", "params_sha256", "data_sha256", SEAL), (str,)),
    **dict.fromkeys(("seed", "rounds", "num_parameters", "side_by_side"), (int,)),
    **dict.fromkeys(("accuracy", "best_accuracy", "loss", "wall_seconds"), NUMBER),
    **dict.fromkeys(("seeds", "failures", "data_notes"), (list,)),
    **dict.fromkeys(("settings", "made_with", "files", *NUMBERS), (dict,)),
}
LEAKAGE = ("auc", "balanced_accuracy", "tpr_at_0.01", "tpr_at_0.001")


@dataclass(frozen=True, eq=False)
class Results:
    """What a run or a sweep left behind.

    Attributes:
        path: folder of the experiment.
        rows: the tidy table, one number of one round a row, with `run_id`, `seed`, a column
            `settings.<field>` for every axis, and `is_control`: whether no cell is this run, which
            is only there to be compared with. Controls have `settings.control`. A run that is
            several cells is there once for each.
        cells: one row a cell and seed: settings, final accuracy, protection and so on.
        failures: one row a client that did not deliver.
        complete: whether every run that was asked for finished, and is whole.
        damaged: one line for each file that was changed since it was written; a cell that it
            belongs to has the status `damaged`, and no numbers.
    """

    path: Path
    rows: pd.DataFrame
    cells: pd.DataFrame
    failures: pd.DataFrame
    complete: bool
    damaged: tuple[str, ...] = ()

    def final(self, metric: str, group: str | None = None) -> pd.DataFrame:
        """Return a metric after the last round of every cell, controls left out.

        One row a number, with the columns of `rows`: settings and seed, client and group, value
        and interval, `valid` and `note`. Numbers that are not defined are NaN, which pandas leaves
        out of means; those that should not be read have `valid` False.

        Args:
            metric: such as `client_accuracy`.
            group: of records or clients, such as `all`; None: every one that there is.

        Raises:
            RequestError: for a metric that no run has.
        """
        if metric not in set(self.rows["metric"]):
            known = ", ".join(sorted(set(map(str, self.rows["metric"]))))
            raise RequestError(f"no metric {metric!r} in {self.path}; there are {known}")
        cells = self.rows[~self.rows["is_control"].astype(bool)]
        last = cells.groupby(["run_id", "seed"])["round"].transform("max")
        chosen = (cells["round"] == last) & (cells["metric"] == metric)
        if group is not None:
            chosen &= cells["group"] == group
        return cells[chosen].drop(columns="is_control").reset_index(drop=True)


def rows_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return rows as a table."""
    return pd.DataFrame(list(rows), columns=list(Row._fields))


def run_folder(root: Path, run_id: str, seed: int) -> Path:
    """Return the folder of one run of an experiment."""
    return root / run_id / f"seed={seed}"


def read_result(folder: Path) -> dict[str, Any] | None:
    """Return what a finished run says of itself, or None where it has not finished.

    Raises:
        DamagedFileError: where `result.json` is damaged.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    return read_json(path)


def checked_result(
    folder: Path, key: tuple[str, int] | None = None, seal: str | None = None
) -> dict[str, Any] | None:
    """Return what a finished run says of itself, if all its files are as they were written.

    A run of an earlier version has no hashes: its files are only looked at.

    Args:
        folder: of the run.
        key: the run id and the seed that it ought to have.
        seal: the hash that its `result.json` ought to carry.

    Returns:
        what `result.json` holds, or None where the run has not finished.

    Raises:
        DamagedFileError: for the first file that is cut, missing, or was changed.
    """
    result, path = read_result(folder), folder / RESULT
    if result is None:
        was_finished = (folder / MODEL).exists() and not (folder / "checkpoints").exists()
        if was_finished or seal is not None:
            raise DamagedFileError(path, "is missing")
        return None
    of_another = key is not None and (result.get("run_id"), result.get("seed")) != key
    if of_another or (seal is not None and result.get(SEAL) != seal):
        raise DamagedFileError(path, "is of another run")
    check_entry(path, result, ("run_id", "seed", "accuracy", "best_accuracy", "rounds"))
    check_files(folder, result.get("files"), FILES)
    return result


def check_entry(path: Path, entry: dict[str, Any], needed: Iterable[str]) -> None:
    """Check the shape of what is told of a run, for a file that carries no hash of its own.

    Args:
        path: of the file that tells it.
        entry: what it tells.
        needed: names that must be in it.

    Raises:
        DamagedFileError: for what is missing, or has another type than it is written with.
    """
    for name in needed:
        if name not in entry:
            raise DamagedFileError(path, f"has no {name}")
    for name, value in entry.items():
        kinds = KINDS.get(name, (object,))
        is_kind = isinstance(value, kinds) and not (isinstance(value, bool) and int in kinds)
        if name in NUMBERS and is_kind:
            is_kind = not any(isinstance(own, dict | list) for own in value.values())
        if name == "failures" and is_kind:
            is_kind = all(isinstance(own, dict) for own in value)
        if not is_kind:
            raise DamagedFileError(path, f"cannot hold {json.dumps(value)[:80]} as {name}")


def seal_audit(folder: Path, summary: dict[str, Any]) -> None:
    """Write an audit in brief, with the hashes of the tables that it is about."""
    names = (AUDIT_FINDINGS, AUDIT_RECORDS)
    files = {name: file_sha256(folder / name) for name in names}
    write_sealed(folder / AUDIT, {**summary, "files": files})


def read_audit(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]] | None:
    """Return an audit's findings, what it says of each record, and its summary.

    Returns:
        None where the run was not audited.

    Raises:
        DamagedFileError: where one of its files is damaged.
    """
    if not (folder / AUDIT).exists():
        return None
    summary = read_json(folder / AUDIT)
    check_files(folder, summary.get("files"), ())
    findings, records = (read_table(folder / n) for n in (AUDIT_FINDINGS, AUDIT_RECORDS))
    return findings, records, summary


def final_numbers(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the headline numbers of a run: of its last round, and the best accuracy."""
    last = rows[rows["round"] == rows["round"].max()]
    overall = last[last.client == -1]
    accuracy = rows[(rows.metric == "accuracy") & (rows.client == -1)].value
    costs = {m: rows[rows.metric == m].value for m in COSTS}
    return {
        "accuracy": float(accuracy.iloc[-1]),
        "best_accuracy": float(accuracy.max()),
        "loss": float(overall[overall.metric == "loss"].value.iloc[0]),
        "leakage": _leakage(overall),
        "fairness": _fairness(overall),
        "rule": {f"{g}_share": v for g, v in _group_means(rows, "group_share").items()},
        "epsilon": _epsilon(last),
        "detection": {f"{g}_auc": v for g, v in _group_means(rows, "detection_auc").items()},
        "cost": {name: _sum(values) for name, values in costs.items()}
        | {"peak_mib": float(rows[rows.metric == "peak_mib"].value.max())},
    }


def _sum(values: "pd.Series[float]") -> float:
    """Return the sum over rounds; NaN where it is not known of each round, or of none."""
    return float(values.sum(skipna=False)) if len(values) else float("nan")


def protection_numbers(
    mix: dict[str, Any], all_clean: dict[str, Any] | None, clean: dict[str, Any] | None
) -> dict[str, float]:
    """Return A_all, A_clean and A_mix, last and best round, with gap and ratio.

    NaN stands for a control that was not run, or cannot be: nothing is clean at fraction 1; and
    for an accuracy that is not defined, of a model that diverged.
    """
    numbers: dict[str, float] = {}
    for name, entry in (("a_all", all_clean), ("a_clean", clean), ("a_mix", mix)):
        numbers[name] = _number(entry, "accuracy")
        numbers[f"{name}_best"] = _number(entry, "best_accuracy")
    numbers["utility_gap"] = utility_gap(numbers["a_clean"], numbers["a_mix"])
    numbers["extraction_ratio"] = extraction_ratio(
        numbers["a_all"], numbers["a_clean"], numbers["a_mix"]
    )
    return numbers


def _number(entry: dict[str, Any] | None, name: str) -> float:
    """Return a number of a result; JSON has null in the place of NaN."""
    value = None if entry is None else entry[name]
    return float("nan") if value is None else float(value)


def load_results(path: str | Path) -> Results:
    """Read the results of one experiment, from its folder.

    Raises:
        RequestError: where there are none.
        DamagedFileError: where the summary itself cannot be read. Any other damage is told by
            `Results.damaged`.
    """
    root = Path(path)
    summary = root / "summary.json"
    if not summary.exists():
        raise RequestError(f"no results in {root}: {summary.name} is missing")
    content = read_json(summary)
    cells, controls = (_entries(summary, content, name) for name in ("cells", "controls"))
    damaged: list[str] = []
    cells, controls = ([_as_it_is(root, e, damaged) for e in es] for es in (cells, controls))
    entries = cells + controls
    rows = _rows(root, content, entries, damaged)
    failures = [
        {"run_id": entry["run_id"], "seed": entry["seed"], **failure}
        for entry in entries
        for failure in entry.get("failures", [])
    ]
    return Results(
        path=root,
        rows=_with_settings(rows, cells, controls),
        cells=pd.json_normalize([_told(entry) for entry in cells]),
        failures=pd.DataFrame(failures, columns=["run_id", "seed", "round", "client", "cause"]),
        complete=all(entry["status"] == "finished" for entry in cells),
        damaged=tuple(damaged),
    )


def _with_settings(
    rows: pd.DataFrame, asked: list[dict[str, Any]], beside: list[dict[str, Any]]
) -> pd.DataFrame:
    """Return rows with the settings of their run, and whether it is a control."""
    if rows.empty:
        return rows_table([]).assign(run_id="", seed=0, is_control=False)
    runs: dict[str, dict[str, Any]] = {}  # by what tells them apart, each once
    cells = {(own["run_id"], own["seed"]) for own in asked}
    for entry in (*asked, *beside):
        is_control = (entry["run_id"], entry["seed"]) not in cells
        if is_control or "control" not in entry["settings"]:
            about = {"run_id": entry["run_id"], "seed": entry["seed"], "is_control": is_control}
            about |= {f"{SETTINGS}{name}": own for name, own in entry["settings"].items()}
            runs[json.dumps(about)] = about
    table = pd.DataFrame(list(runs.values()))
    found = rows.drop(columns="is_control", errors="ignore").merge(
        table, on=["run_id", "seed"], how="left"
    )
    # A run that the summary does not name is no cell.
    return found.assign(is_control=found["is_control"].fillna(True).astype(bool))


def _entries(path: Path, content: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the entries of a summary."""
    found: Any = content.get(name)
    is_list = isinstance(found, list) and (name != "cells" or len(found) > 0)
    if not is_list or not all(isinstance(entry, dict) for entry in found):
        raise DamagedFileError(path, f"has no list of {name}")
    for entry in found:
        own = () if entry.get("status") == "finished" else ("error",)
        check_entry(path, entry, ("run_id", "seed", "settings", "status", *own))
    return list(found)


def _as_it_is(root: Path, entry: dict[str, Any], damaged: list[str]) -> dict[str, Any]:
    """Return an entry of a summary, without its numbers where a file of its run is damaged."""
    if entry["status"] != "finished":
        return entry
    key = (str(entry["run_id"]), int(entry["seed"]))
    folder = run_folder(root, *key)
    try:
        if "files" in entry or (folder / RESULT).exists():
            checked_result(folder, key, entry.get(SEAL))
        else:  # of an earlier version, or without its folder
            check_files(folder, None, FILES)
        own = entry
    except DamagedFileError as error:
        damaged.append(str(error))
        own = without_numbers(entry, str(error))
    try:
        read_audit(folder)
    except DamagedFileError as error:
        damaged.append(f"{error}; the audit is left out")
    return own


def without_numbers(entry: dict[str, Any], error: str) -> dict[str, Any]:
    """Return an entry of a summary for a run whose files are damaged."""
    return {name: entry[name] for name in ABOUT if name in entry} | {
        "status": "damaged",
        "error": error,
    }


def _told(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry without its hashes, which say nothing in a table."""
    return {name: own for name, own in entry.items() if name not in ("files", SEAL)}


def _rows(
    root: Path, content: dict[str, Any], entries: list[dict[str, Any]], damaged: list[str]
) -> pd.DataFrame:
    """Return the rows of all runs that are whole; a damaged table is put together anew."""
    hashes: Any = content.get("files") or {}
    if not isinstance(hashes, dict):
        raise DamagedFileError(root / "summary.json", "has no hashes by name as files")
    try:
        table = read_table(root / ROWS, hashes.get(ROWS))
        if len(table) and not {*Row._fields, "run_id", "seed"} <= set(table.columns):
            raise DamagedFileError(root / ROWS, "is no table of rows")
    except DamagedFileError as error:
        whole = [e for e in entries if e["status"] == "finished"]
        table = rows_of_runs(root, [(str(e["run_id"]), int(e["seed"])) for e in whole])
        if whole and table.empty:
            raise
        damaged.append(f"{error}; the rows are those of the runs' own folders")
    lost = {(str(e["run_id"]), int(e["seed"])) for e in entries if e["status"] == "damaged"}
    if not lost or table.empty:
        return table
    keys = zip(table["run_id"].astype(str), table["seed"].astype(int), strict=True)
    return table[[key not in lost for key in keys]].reset_index(drop=True)


def rows_of_runs(
    root: Path, keys: Iterable[tuple[str, int]], asked: Iterable[tuple[str, int]] = ()
) -> pd.DataFrame:
    """Return the rows of runs, out of their own folders, with `run_id`, `seed`, `is_control`.

    Args:
        root: folder of the experiment.
        keys: run ids and seeds.
        asked: those that are cells; the others are controls.
    """
    cells = set(asked)
    tables = []
    for run_id, seed in dict.fromkeys(keys):
        path = run_folder(root, run_id, seed) / ROWS
        try:
            own = read_table(path).assign(run_id=run_id, seed=seed)
        except DamagedFileError:  # of a run that has not finished, or is told of as damaged
            continue
        tables.append(own.assign(is_control=(run_id, seed) not in cells))
    return pd.concat(tables, ignore_index=True) if tables else rows_table([])


def _fairness(overall: pd.DataFrame) -> dict[str, float]:
    """Return the statistics over clients, those of a group under its name."""
    chosen = overall[overall.metric.str.startswith("fairness_")]
    names = [str(name).removeprefix("fairness_") for name in chosen.metric]
    keys = [
        name if group == "all" else f"{group}_{name}"
        for name, group in zip(names, chosen.group, strict=True)
    ]
    return dict(zip(keys, map(float, chosen.value), strict=True))


def _group_means(rows: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return a metric's mean over rounds, by group, where it should be read."""
    chosen = rows[(rows.metric == metric) & rows.valid]
    return {str(group): float(own.mean()) for group, own in chosen.groupby("group").value}


def _epsilon(last: pd.DataFrame) -> dict[str, float]:
    """Return the most that was spent, of the privacy of clients or of images, where known.

    The figure of Renyi differential privacy stands beside it, under a name that ends in `_rdp`.
    """
    found: dict[str, float] = {}
    for metric, ending in (("epsilon", ""), ("epsilon_rdp", "_rdp")):
        chosen = last[(last.metric == metric) & last.valid]
        found |= {f"{g}{ending}": float(own.max()) for g, own in chosen.groupby("group").value}
    return found


def _leakage(overall: pd.DataFrame) -> dict[str, Any]:
    """Return the margin attack's numbers by group, with intervals and validity."""
    numbers: dict[str, Any] = {}
    for row in overall[overall.metric.str.startswith("mia_margin_")].itertuples():
        name = str(row.metric).removeprefix("mia_margin_")
        key = name if row.group == "all" else f"{row.group}_{name}"
        numbers[key] = row.value
        if name in LEAKAGE and name != "balanced_accuracy":
            numbers |= {f"{key}_low": row.low, f"{key}_high": row.high}
            numbers |= {f"{key}_valid": bool(row.valid), f"{key}_note": row.note}
    shift = overall[overall.metric == "mia_shift_auc"]
    return numbers | {"shift_auc": float(shift.value.iloc[0])}
