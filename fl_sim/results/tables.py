"""Tables: the results of an experiment as pandas frames."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.core.atomic_io import SEAL, DamagedFileError, check_files, read_table
from fl_sim.core.errors import RequestError
from fl_sim.core.rows import Row
from fl_sim.results.folders import (
    FILES,
    RESULT,
    ROWS,
    check_entry,
    read_audit,
    read_result,
    run_folder,
)
from fl_sim.results.summaries import SETTINGS, Entry, drop_hashes, read_summary

SUMMARY = "summary.json"


@dataclass(frozen=True, eq=False)
class Results:
    """Results of a run or a sweep.

    Attributes:
        path: Folder of the experiment.
        rows: The tidy table, one row per number and round, with `run_id`, `seed`, a column
            `settings.<field>` for every axis, and `is_control`: whether no cell is this run, which
            is only there to be compared with. Controls have `settings.control`. A run that is
            several cells is there once for each.
        cells: One row per cell and seed: settings, final accuracy, protection and so on.
        failures: One row per client that did not deliver.
        complete: Whether every run that was asked for finished, and is whole.
        damaged: One line per file that was changed since it was written; a cell that it belongs
            to has the status `damaged`, and no numbers.
    """

    path: Path
    rows: pd.DataFrame
    cells: pd.DataFrame
    failures: pd.DataFrame
    complete: bool
    damaged: tuple[str, ...] = ()

    def final(self, metric: str, group: str | None = None) -> pd.DataFrame:
        """Return a metric after the last round of every cell, controls left out.

        One row per number, with the columns of `rows`: settings and seed, client and group, value
        and interval, `valid` and `note`. Numbers that are not defined are NaN, which pandas leaves
        out of means; those that should not be read have `valid` False.

        Args:
            metric: Name of a metric, such as `client_accuracy`.
            group: Group of records or clients, such as `all`; None: every one that there is.

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


def make_rows_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Return rows as a table."""
    return pd.DataFrame(list(rows), columns=list(Row._fields))


def load_results(path: str | Path) -> Results:
    """Read the results of one experiment, from its folder.

    Raises:
        RequestError: where there are none.
        DamagedFileError: where the summary itself cannot be read. Any other damage is told by
            `Results.damaged`.
    """
    root = Path(path)
    lists = ("cells", "controls")
    content, damaged = read_summary(root / SUMMARY, lists, _check_shape, _check_whole)
    cells, controls = (content[name] for name in lists)
    entries = cells + controls
    rows = _read_rows(root, content, entries, damaged)
    failures = [
        {"run_id": entry["run_id"], "seed": entry["seed"], **failure}
        for entry in entries
        for failure in entry.get("failures", [])
    ]
    return Results(
        path=root,
        rows=_add_settings(rows, cells, controls),
        cells=pd.json_normalize([drop_hashes(entry) for entry in cells]),
        failures=pd.DataFrame(failures, columns=["run_id", "seed", "round", "client", "cause"]),
        complete=all(entry["status"] == "finished" for entry in cells),
        damaged=tuple(damaged),
    )


def _check_shape(path: Path, entry: Entry) -> None:
    own = () if entry.get("status") == "finished" else ("error",)
    check_entry(path, entry, ("run_id", "seed", "settings", "status", *own))


def _check_whole(root: Path, entry: Entry, damaged: list[str]) -> None:
    """Check the files of a finished run, and those of its audit."""
    if entry["status"] != "finished":
        return
    key = (entry["run_id"], entry["seed"])
    folder = run_folder(root, *key)
    try:
        read_audit(folder)
    except DamagedFileError as error:
        damaged.append(f"{error}; the audit is left out")
    if "files" in entry or (folder / RESULT).exists():
        read_result(folder, key, entry.get(SEAL))
    else:  # of an earlier version, or without its folder
        check_files(folder, None, FILES)


def _add_settings(rows: pd.DataFrame, cells: list[Entry], controls: list[Entry]) -> pd.DataFrame:
    """Return rows with the settings of their run, and whether it is a control."""
    if rows.empty:
        return make_rows_table([]).assign(run_id="", seed=0, is_control=False)
    runs: dict[str, Entry] = {}  # by what tells them apart, each once
    cell_keys = {(cell["run_id"], cell["seed"]) for cell in cells}
    for entry in (*cells, *controls):
        is_control = (entry["run_id"], entry["seed"]) not in cell_keys
        if is_control or "control" not in entry["settings"]:
            about = {"run_id": entry["run_id"], "seed": entry["seed"], "is_control": is_control}
            about |= {f"{SETTINGS}{name}": own for name, own in entry["settings"].items()}
            runs[json.dumps(about)] = about
    table = pd.DataFrame(list(runs.values()))
    merged = rows.drop(columns="is_control", errors="ignore").merge(
        table, on=["run_id", "seed"], how="left"
    )
    # A run that the summary does not name is no cell.
    return merged.assign(is_control=merged["is_control"].fillna(True).astype(bool))


def _read_rows(
    root: Path, content: Entry, entries: list[Entry], damaged: list[str]
) -> pd.DataFrame:
    """Return the rows of all runs that are whole; a damaged table is put together anew."""
    hashes: Any = content.get("files") or {}
    if not isinstance(hashes, dict):
        raise DamagedFileError(root / SUMMARY, "has no hashes by name as files")
    try:
        table = read_table(root / ROWS, hashes.get(ROWS))
        if len(table) and not {*Row._fields, "run_id", "seed"} <= set(table.columns):
            raise DamagedFileError(root / ROWS, "is no table of rows")
    except DamagedFileError as error:
        whole = [e for e in entries if e["status"] == "finished"]
        table = read_run_rows(root, [(e["run_id"], e["seed"]) for e in whole])
        if whole and table.empty:
            raise
        damaged.append(f"{error}; the rows are those of the runs' own folders")
    lost = {(e["run_id"], e["seed"]) for e in entries if e["status"] == "damaged"}
    if not lost or table.empty:
        return table
    keys = zip(table["run_id"].astype(str), table["seed"].astype(int), strict=True)
    return table[[key not in lost for key in keys]].reset_index(drop=True)


def read_run_rows(
    root: Path, keys: Iterable[tuple[str, int]], cell_keys: Iterable[tuple[str, int]] = ()
) -> pd.DataFrame:
    """Return the rows of runs, read from their own folders, with `run_id`, `seed`, `is_control`.

    Args:
        root: Folder of the experiment.
        keys: Run ids and seeds.
        cell_keys: Keys of cells; the others are controls.
    """
    cell_keys = set(cell_keys)
    tables = []
    for run_id, seed in dict.fromkeys(keys):
        path = run_folder(root, run_id, seed) / ROWS
        try:
            own = read_table(path).assign(run_id=run_id, seed=seed)
        except DamagedFileError:  # of a run that has not finished, or is told of as damaged
            continue
        tables.append(own.assign(is_control=(run_id, seed) not in cell_keys))
    return pd.concat(tables, ignore_index=True) if tables else make_rows_table([])
