"""Tables: the results of an experiment as pandas data frames."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.core.atomic_io import SEAL, DamagedFileError, check_files, read_table
from fl_sim.core.errors import RequestError
from fl_sim.core.rows import Row
from fl_sim.results import folders
from fl_sim.results.folders import RESULT, ROWS, run_folder
from fl_sim.results.skipped import read_skipped
from fl_sim.results.summaries import SETTINGS, Entry, drop_hashes, read_summary

SUMMARY = "summary.json"
UNFINISHED = "not finished"  # the error of a run that has not ended yet


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """Results of a run or a sweep.

    Attributes:
        path: Folder of the experiment.
        rows: The tidy table with one row per number and round, `run_id`, `seed`, a column
            `settings.<field>` for every axis, and `is_control` for runs that are no cell and only
            serve as controls, with the name of the control in `settings.control`. A run that is
            several cells appears once for each.
        cells: One row per cell and seed: settings, final accuracy, protection and so on.
        failures: One row per client that sent no update.
        complete: Whether every requested run has finished and is undamaged.
        failed_controls: One line per control that did not finish, with the error.
        damaged: One line per file that was changed after it was written; its cell has the status
            `damaged`, and no numbers.
        skipped: One row per cell that the grid left out: `label`, `seed`, `reason`, and a column
            `settings.<field>` for every axis.
        question: Question of the experiment: the first paragraph of its file.
    """

    path: Path
    rows: pd.DataFrame
    cells: pd.DataFrame
    failures: pd.DataFrame
    complete: bool
    failed_controls: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    skipped: pd.DataFrame = field(default_factory=pd.DataFrame)
    question: str = ""

    def __repr__(self) -> str:
        """Return a short summary: the runs, the range of their accuracy, and what failed."""
        cells = self.cells
        finished = cells[cells["status"] == "finished"]
        lines = [f"{self.path.name}: {len(finished)} of {len(cells)} runs finished, in {self.path}"]
        if self.question:
            lines.append(self.question)
        accuracy = pd.to_numeric(finished.get("accuracy", pd.Series(dtype=float)), errors="coerce")
        if accuracy.notna().any():
            labels = finished["label"].map(str).tolist()
            pairs = [pair for pair in zip(accuracy.tolist(), labels, strict=True) if pair[0] >= 0]
            known = [f"{100 * value:.1f} % ({label})" for value, label in sorted(pairs)]
            ends = dict.fromkeys((known[0], known[-1]))
            lines.append(f"accuracy: {' to '.join(ends)}")
        for words, number in (
            ("clients that did not deliver", len(self.failures)),
            ("failed controls", len(self.failed_controls)),
            ("damaged files", len(self.damaged)),
            ("skipped cells", len(self.skipped)),
        ):
            if number:
                lines.append(f"{words}: {number}")
        return "\n".join([*lines, "tables: rows, cells, failures; a metric: final(name)"])

    def final(self, metric: str, group: str | None = None) -> pd.DataFrame:
        """Return a metric after the last round of every cell, without controls.

        The table has one row per number, with the columns of `rows`. Undefined numbers are NaN,
        which pandas leaves out of means; numbers that should not be read have `valid` False.

        Args:
            metric: Name of a metric, such as `client_accuracy`.
            group: Group of records or clients, such as `all`; None for every group.

        Raises:
            RequestError: For a metric that no run has.
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
        RequestError: If there are none.
        DamagedFileError: If the summary itself cannot be read; `Results.damaged` lists all other
            damage.
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
        failed_controls=tuple(
            f"{entry['label']}: {entry['error']}"
            for entry in controls
            if entry["status"] != "finished"
        ),
        damaged=tuple(damaged),
        skipped=read_skipped(root / SUMMARY, content),
        question=str(content.get("question", "")),
    )


def _check_shape(path: Path, entry: Entry) -> None:
    error = () if entry.get("status") == "finished" else ("error",)
    folders.check_entry(path, entry, ("run_id", "seed", "settings", "status", *error))


def _check_whole(root: Path, entry: Entry, damaged: list[str]) -> None:
    """Check the files of a finished run, and those of its audit."""
    if entry["status"] != "finished":
        return
    key = (entry["run_id"], entry["seed"])
    folder = run_folder(root, *key)
    try:
        folders.read_audit(folder)
    except DamagedFileError as error:
        damaged.append(f"{error}; the audit is left out")
    if "files" in entry or (folder / RESULT).exists():
        folders.read_result(folder, key, entry.get(SEAL))
    else:  # of an earlier version, or without its folder
        check_files(folder, None, folders.FILES)


def _add_settings(rows: pd.DataFrame, cells: list[Entry], controls: list[Entry]) -> pd.DataFrame:
    """Return rows with the settings of their run, and `is_control`."""
    if rows.empty:
        return make_rows_table([]).assign(run_id="", seed=0, is_control=False)
    runs: dict[str, Entry] = {}  # by their content, so that each is there once
    cell_keys = {(cell["run_id"], cell["seed"]) for cell in cells}
    for entry in (*cells, *controls):
        is_control = (entry["run_id"], entry["seed"]) not in cell_keys
        if is_control or "control" not in entry["settings"]:
            columns = {"run_id": entry["run_id"], "seed": entry["seed"], "is_control": is_control}
            columns |= {f"{SETTINGS}{name}": v for name, v in entry["settings"].items()}
            runs[json.dumps(columns)] = columns
    table = pd.DataFrame(list(runs.values()))
    merged = rows.drop(columns="is_control", errors="ignore").merge(
        table, on=["run_id", "seed"], how="left"
    )
    # A run that is missing from the summary is no cell.
    return merged.assign(is_control=merged["is_control"].fillna(True).astype(bool))


def _read_rows(
    root: Path, content: Entry, entries: list[Entry], damaged: list[str]
) -> pd.DataFrame:
    """Return the rows of all undamaged runs; a damaged table is built again from their folders."""
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
    """Return the rows of runs, read from their folders, with `run_id`, `seed`, `is_control`.

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
            rows = read_table(path).assign(run_id=run_id, seed=seed)
        except DamagedFileError:  # an unfinished run, or one that is reported as damaged
            continue
        tables.append(rows.assign(is_control=(run_id, seed) not in cell_keys))
    return pd.concat(tables, ignore_index=True) if tables else make_rows_table([])
