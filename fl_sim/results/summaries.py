"""Summaries: the headline numbers of a run, and the file that lists all runs of a grid."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.core.atomic_io import SEAL, DamagedFileError, read_json
from fl_sim.core.errors import RequestError
from fl_sim.metrics.half_life import half_life
from fl_sim.metrics.protection import extraction_ratio, utility_gap

COSTS = ("seconds", "cpu_seconds", "bytes_down", "bytes_up")
ROBUSTNESS = (
    *("corruption_mean_accuracy", "corruption_drop"),
    *("adversarial_accuracy", "adversarial_drop"),
)
LEAKAGE = ("auc", "balanced_accuracy", "tpr_at_0.01", "tpr_at_0.001")
KEPT_FIELDS = {  # in an entry whose files are damaged
    *("experiment", "run_id", "seed", "seeds", "settings", "label", "status"),
    *("folder", "seconds", "cpu_seconds"),
}
SETTINGS = "settings."  # prefix of the columns of settings
Entry = dict[str, Any]


def read_summary(
    path: Path,
    lists: tuple[str, ...],
    check_shape: Callable[[Path, Entry], None],
    check_whole: Callable[[Path, Entry, list[str]], None],
) -> tuple[Entry, list[str]]:
    """Return the content of a summary, and one line per damaged file.

    An entry whose files are damaged keeps its settings; its numbers are replaced by an error.

    Args:
        path: Path of `summary.json` or `study.json`.
        lists: Names of its lists of entries; the first must not be empty.
        check_shape: Raises a `DamagedFileError` for an entry of another shape.
        check_whole: Raises a `DamagedFileError` for damaged files of an entry below the summary's
            folder, or adds a line about damaged files that no number depends on.

    Raises:
        RequestError: If there is no summary.
        DamagedFileError: If it cannot be read.
    """
    if not path.exists():
        raise RequestError(f"no results in {path.parent}: {path.name} is missing")
    content, damaged = read_json(path), list[str]()
    for name in lists:
        entries: Any = content.get(name)
        is_list = isinstance(entries, list) and (name != lists[0] or len(entries) > 0)
        if not is_list or not all(isinstance(entry, dict) for entry in entries):
            raise DamagedFileError(path, f"has no list of {name}")
        for entry in entries:
            check_shape(path, entry)
            try:
                check_whole(path.parent, entry, damaged)
            except DamagedFileError as error:
                damaged.append(str(error))
                for name in entry.keys() - KEPT_FIELDS:
                    del entry[name]
                entry["error"] = str(error)
                if "status" in entry:
                    entry["status"] = "damaged"
    return content, damaged


def drop_hashes(entry: Entry) -> Entry:
    """Return an entry without the hashes of its files and of itself."""
    return {name: value for name, value in entry.items() if name not in ("files", SEAL)}


def summarise_rows(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the headline numbers of a run: those of its last round, and the best accuracy."""
    last = rows[rows["round"] == rows["round"].max()]
    overall = last[last.client == -1]
    accuracy = rows[(rows.metric == "accuracy") & (rows.client == -1)].value
    costs = {m: rows[rows.metric == m].value for m in COSTS}
    return {
        "accuracy": float(accuracy.iloc[-1]),
        "best_accuracy": float(accuracy.max()),
        "loss": float(overall[overall.metric == "loss"].value.iloc[0]),
        "leakage": _summarise_leakage(overall),
        "fairness": _summarise_fairness(overall),
        "calibration": _summarise_metrics(overall, "calibration_error", "brier_score"),
        "robustness": _summarise_metrics(overall, *ROBUSTNESS),
        "rule": {f"{g}_share": v for g, v in _average_by_group(rows, "group_share").items()},
        "epsilon": _summarise_epsilon(last),
        "detection": {f"{g}_auc": v for g, v in _average_by_group(rows, "detection_auc").items()},
        **_summarise_backdoor(rows),
        "cost": {name: _sum_rounds(values) for name, values in costs.items()}
        | {"peak_mib": float(rows[rows.metric == "peak_mib"].value.max())},
    }


def _sum_rounds(values: "pd.Series[float]") -> float:
    """Return the sum over rounds, or NaN if the value of any round is unknown."""
    return float(values.sum(skipna=False)) if len(values) else float("nan")


def compare_with_controls(
    mix: dict[str, Any], all_clean: dict[str, Any] | None, clean: dict[str, Any] | None
) -> dict[str, float]:
    """Return A_all, A_clean and A_mix of the last and the best round, their gap and ratio.

    Numbers are NaN for a control that was not run or cannot be, as there are no clean images at
    fraction 1, and for the undefined accuracy of a model that diverged.
    """
    numbers: dict[str, float] = {}
    for name, entry in (("a_all", all_clean), ("a_clean", clean), ("a_mix", mix)):
        numbers[name] = _read_number(entry, "accuracy")
        numbers[f"{name}_best"] = _read_number(entry, "best_accuracy")
    numbers["utility_gap"] = utility_gap(numbers["a_clean"], numbers["a_mix"])
    accuracies = (numbers["a_all"], numbers["a_clean"], numbers["a_mix"])
    return {**numbers, "extraction_ratio": extraction_ratio(*accuracies)}


def _read_number(entry: dict[str, Any] | None, name: str) -> float:
    """Return a number of a result, or NaN for null."""
    value = None if entry is None else entry[name]
    return float("nan") if value is None else float(value)


def _summarise_fairness(overall: pd.DataFrame) -> dict[str, float]:
    """Return the statistics over clients; those of a group have its name as a prefix."""
    chosen = overall[overall.metric.str.startswith("fairness_")]
    names = [str(name).removeprefix("fairness_") for name in chosen.metric]
    keys = [
        name if group == "all" else f"{group}_{name}"
        for name, group in zip(names, chosen.group, strict=True)
    ]
    return dict(zip(keys, map(float, chosen.value), strict=True))


def _summarise_metrics(overall: pd.DataFrame, *metrics: str) -> dict[str, float]:
    """Return the numbers of these metrics that the last round has, by name."""
    chosen = overall[overall.metric.isin(metrics)]
    return dict(zip(chosen.metric, map(float, chosen.value), strict=True))


def _summarise_backdoor(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the success of a backdoor, and the half-life of one that the start model has."""
    success = rows[rows.metric == "attack_success"]
    if success.empty:
        return {}
    untriggered = rows[rows.metric == "attack_success_untriggered"].value
    numbers: dict[str, Any] = {
        "success": float(success.value.iloc[-1]),
        "untriggered": float(untriggered.iloc[-1]),
    }
    start = rows[rows.metric == "attack_success_start"].value
    if len(start):
        first, last = float(start.iloc[0]), int(success["round"].max())
        after = half_life(first, list(zip(success["round"], success.value, strict=True)))
        note = f"above half of its start after round {last}" if after != after else ""
        numbers |= {"start": first, "half_life": after, "half_life_note": note}
    return {"backdoor": numbers}


def compare_with_honest(mix: dict[str, Any], honest: dict[str, Any] | None) -> dict[str, float]:
    """Return the accuracies of the control in which nobody attacks, and those lost to the attack.

    Numbers are NaN if the control was not run.
    """
    numbers: dict[str, float] = {}
    for ending, name in (("", "accuracy"), ("_best", "best_accuracy")):
        numbers[f"a_honest{ending}"] = _read_number(honest, name)
        lost = numbers[f"a_honest{ending}"] - _read_number(mix, name)
        numbers[f"accuracy_lost{ending}"] = lost
    return numbers


def _average_by_group(rows: pd.DataFrame, metric: str) -> dict[str, float]:
    """Return the mean of a metric over its valid rounds, by group."""
    chosen = rows[(rows.metric == metric) & rows.valid]
    return {str(group): float(values.mean()) for group, values in chosen.groupby("group").value}


def _summarise_epsilon(last: pd.DataFrame) -> dict[str, float]:
    """Return the largest known epsilon of clients and of images.

    The epsilon by Renyi differential privacy has a name that ends in `_rdp`.
    """
    epsilons: dict[str, float] = {}
    for metric, ending in (("epsilon", ""), ("epsilon_rdp", "_rdp")):
        chosen = last[(last.metric == metric) & last.valid]
        epsilons |= {f"{g}{ending}": float(v.max()) for g, v in chosen.groupby("group").value}
    return epsilons


def _summarise_leakage(overall: pd.DataFrame) -> dict[str, Any]:
    """Return the numbers of the margin attack by group, with intervals and validity."""
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
