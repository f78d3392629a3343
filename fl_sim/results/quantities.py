"""Quantities of runs by name, and the direction in which each is better."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from typing import Literal

import pandas as pd

from fl_sim.core.errors import RequestError, suggest
from fl_sim.results.summaries import COSTS, SETTINGS
from fl_sim.results.tables import Results

Direction = Literal["higher", "lower"]
ALIASES = {  # short names, beside the last part of a column or metric
    "auc": "mia_margin_auc",
    "tpr": "mia_margin_tpr_at_0.01",
    "ece": "calibration_error",
    "brier": "brier_score",
    "bytes": "cost.bytes",
    "download": "cost.download_once",
    "num_frozen": "cost.download_once",
    "shift_auc": "mia_shift_auc",
}
PREFIXES = ("cost.", "protection.", "fairness_", "mia_margin_", "epsilon.", "backdoor.", "attack.")
BETTER: dict[Direction, tuple[str, ...]] = {  # patterns of names; the first that fits decides
    "lower": (
        *("loss", "cost.*", "num_parameters", "rounds", "wall_seconds", "failures"),
        *("mia_*", "fairness_leakage_*", "*_drop", "epsilon*", "attack_success*"),
        *("fairness_spread", "fairness_variance", "fairness_parity_gap", "fairness_gini"),
        *("fairness_*_spread", "fairness_worse_off", "calibration_error", "brier_score"),
        *("*half_life*", "*_error", "*.group_gap", "*domain*_gap"),
    ),
    "higher": (
        *("accuracy*", "*_accuracy", "*_accuracy.*", "fairness_mean*", "fairness_worst_*"),
        *("fairness_best_*", "fairness_cvar_*", "fairness_jain", "fairness_entropy"),
        *("fairness_benefit_mean", "psnr", "ssim"),
    ),
}
GROUPS = {  # of columns whose numbers are metrics, which start otherwise
    "leakage.": "mia_margin_",
    "fairness.": "fairness_",
    "calibration.": "",
    "robustness.": "",
}


@dataclass(frozen=True, eq=False)
class RunNumbers:
    """Numbers of every cell of an experiment, by name.

    A name is a column of `cells`, such as `best_accuracy` or `cost.cpu_seconds`, or a metric of
    `rows` after the last round, such as `mia_margin_auc`; of a group other than all it is
    `metric.group`. `cost.bytes` is the sum of `cost.bytes_up` and `cost.bytes_down`, and
    `cost.download_once` the bytes that each client loads once before it starts.

    Attributes:
        results: Results of the experiment.
    """

    results: Results
    _cache: dict[str, "pd.Series[float]"] = field(default_factory=dict, repr=False)

    @cached_property
    def names(self) -> list[str]:
        """Names of all quantities that any cell has."""
        return sorted({*self._columns, *self._final["name"]})

    def find(self, name: str) -> str:
        """Return the full name of a quantity, such as `fairness_worst_client` of `worst_client`.

        Raises:
            RequestError: If no cell is finished, or none has it; the message lists the known names.
        """
        if not (self.results.cells["status"] == "finished").any():
            raise RequestError(f"no finished run in {self.results.path}")
        renamed = [new + name.removeprefix(g) for g, new in GROUPS.items() if name.startswith(g)]
        tried = [name, ALIASES.get(name, ""), *renamed, *(prefix + name for prefix in PREFIXES)]
        for candidate in tried:
            if candidate in self.names:
                return candidate
        short = {alias for alias, full in ALIASES.items() if full in self.names}
        short |= {n.removeprefix(p) for n in self.names for p in PREFIXES if n.startswith(p)}
        close = suggest(name, sorted({*short, *self.names}))
        groups = {n for n in self.names if n.rpartition(".")[0] in self.names}
        known = ", ".join(sorted({*self.names, *(short & ALIASES.keys())} - groups))
        advice = close or f"; there are {known}"
        raise RequestError(f"no quantity {name!r} in {self.results.path}{advice}")

    def values(self, name: str) -> "pd.Series[float]":
        """Return a quantity by full name, one entry per row of `cells`.

        It is NaN for runs that did not finish, and where the number is missing or not valid.
        """
        if name not in self._cache:
            cells = self.results.cells
            if name in self._columns:
                numbers = self._columns[name]
            else:
                rows = self._final[(self._final["name"] == name) & self._final["valid"]]
                numbers = self._join(rows["value"].to_numpy(float), rows)
            finished = cells["status"] == "finished"
            self._cache[name] = pd.to_numeric(numbers, errors="coerce").where(finished)
        return self._cache[name]

    def reason(self, name: str, cells: "pd.Index[int]") -> str:
        """Return why a quantity is missing for some rows of `cells`, in words."""
        table = self.results.cells.loc[cells]
        unfinished = table[table["status"] != "finished"]
        rows = self._final[(self._final["name"] == name) & (self._final["note"] != "")]
        keys = set(zip(table["run_id"], table["seed"], strict=True))
        pairs = zip(rows["run_id"], rows["seed"], strict=True)
        missing = ~rows["valid"] | rows["value"].isna()
        notes = rows[missing & pd.Series([key in keys for key in pairs], rows.index)]["note"]
        if f"{name}_note" in table:
            notes = table[f"{name}_note"].dropna()
        causes = [*filter(None, notes), *("a run did not finish" for _ in range(len(unfinished)))]
        return "; ".join(dict.fromkeys(map(str, causes))) or "not measured"

    @cached_property
    def _columns(self) -> dict[str, "pd.Series[float]"]:
        """Numeric columns of `cells` that are no metric under another name."""
        cells = self.results.cells
        columns = {}
        for name in map(str, cells.columns):
            if name in ("seed", "side_by_side") or name.startswith((*GROUPS, SETTINGS)):
                continue
            if cells[name].map(lambda value: isinstance(value, bool | str | list)).any():
                continue
            numbers = pd.to_numeric(cells[name], errors="coerce")
            if numbers.notna().any():
                columns[name] = numbers
        if {"cost.bytes_up", "cost.bytes_down"} <= columns.keys():
            columns["cost.bytes"] = columns["cost.bytes_up"] + columns["cost.bytes_down"]
        if "num_frozen" in columns:
            columns["cost.download_once"] = 4 * columns.pop("num_frozen")
        return columns

    @cached_property
    def _final(self) -> pd.DataFrame:
        """Rows of the whole federation after the last round of each run, with their `name`."""
        rows = self.results.rows
        rows = rows[(rows["client"] == -1) & ~rows["metric"].isin((*COSTS, "peak_mib"))]
        rows = rows[~rows["metric"].isin(list(self._columns))]
        last = rows.groupby(["run_id", "seed"])["round"].transform("max")
        rows = rows[rows["round"] == last]
        rows = rows.drop_duplicates(["run_id", "seed", "metric", "group"])
        suffix = ("." + rows["group"].astype(str)).where(rows["group"] != "all", "")
        return rows.assign(
            name=rows["metric"].astype(str) + suffix,
            valid=rows["valid"].astype(bool),
            note=rows["note"].fillna("").astype(str),
        )

    def _join(self, values: Iterable[float], rows: pd.DataFrame) -> "pd.Series[float]":
        keys = zip(rows["run_id"].astype(str), rows["seed"].astype(int), strict=True)
        known = dict(zip(keys, values, strict=True))
        cells = self.results.cells
        pairs = zip(cells["run_id"].astype(str), cells["seed"].astype(int), strict=True)
        return pd.Series([known.get(key, float("nan")) for key in pairs], index=cells.index)


def find_direction(name: str, given: Mapping[str, Direction] | None = None) -> Direction | None:
    """Return the direction in which a quantity is better, or None if it is not known.

    Args:
        name: Full name of the quantity.
        given: Directions by full name, which take precedence.

    >>> find_direction("mia_margin_auc"), find_direction("fairness_worst_client")
    ('lower', 'higher')
    """
    if given and name in given:
        return given[name]
    for direction, patterns in BETTER.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            return direction
    return None
