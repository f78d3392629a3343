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

from fl_sim.atomic_io import write_bytes as write_bytes
from fl_sim.atomic_io import write_json as write_json
from fl_sim.atomic_io import write_table as write_table
from fl_sim.atomic_io import write_text as write_text
from fl_sim.contracts import Row
from fl_sim.errors import RequestError
from fl_sim.metrics.protection import extraction_ratio, utility_gap

COSTS = ("seconds", "cpu_seconds", "bytes_down", "bytes_up")
SETTINGS = "settings."  # what the columns of a cell's settings begin with
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
        complete: whether every run that was asked for finished.
    """

    path: Path
    rows: pd.DataFrame
    cells: pd.DataFrame
    failures: pd.DataFrame
    complete: bool

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
    """Return what a finished run says of itself, or None where it has not finished."""
    path = folder / "result.json"
    if not path.exists():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


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
    """
    root = Path(path)
    summary = root / "summary.json"
    if not summary.exists():
        raise RequestError(f"no results in {root}: {summary.name} is missing")
    content = json.loads(summary.read_text())
    entries = content["cells"] + content["controls"]
    failures = [
        {"run_id": entry["run_id"], "seed": entry["seed"], **failure}
        for entry in entries
        for failure in entry.get("failures", [])
    ]
    return Results(
        path=root,
        rows=_with_settings(pd.read_parquet(root / "rows.parquet"), content),
        cells=pd.json_normalize(content["cells"]),
        failures=pd.DataFrame(failures, columns=["run_id", "seed", "round", "client", "cause"]),
        complete=all(entry["status"] == "finished" for entry in content["cells"]),
    )


def _with_settings(rows: pd.DataFrame, summary: dict[str, Any]) -> pd.DataFrame:
    """Return rows with the settings of their run, and whether it is a control."""
    if rows.empty:
        return rows_table([]).assign(run_id="", seed=0, is_control=False)
    runs: dict[str, dict[str, Any]] = {}  # by what tells them apart, each once
    cells = {(own["run_id"], own["seed"]) for own in summary["cells"]}
    for entry in (*summary["cells"], *summary["controls"]):
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
