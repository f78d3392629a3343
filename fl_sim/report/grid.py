"""The grid of a sweep: its settings, each with one run per seed."""

import json
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_sim.core.atomic_io import read_arrays, read_json, read_table
from fl_sim.report.formats import drop_undefined, format_value, mean
from fl_sim.results import Results, make_rows_table, run_folder
from fl_sim.results.quantities import RunNumbers
from fl_sim.results.summaries import SETTINGS as PREFIX

FRACTION = "layout.fraction"
FEW_AXES = 3  # axes that the name of a setting in a sentence has
KIND = "kind"  # added column of rows: a number per metric, group and kind of client
NO_POSITIONS = np.empty(0, np.intp)


class FinalValues(NamedTuple):
    """A metric after the last round, one entry per seed, in the order of the rows."""

    values: list[float]
    lows: list[float]
    highs: list[float]
    valid: list[bool]
    notes: list[str]


NO_VALUES = FinalValues([], [], [], [], [])


@dataclass(frozen=True, eq=False)
class Setting:
    """One point of the grid.

    Attributes:
        values: Value of every axis as text.
        cells: Entries of the summary, one per seed, including failed runs.
        rows: Tidy rows of the finished runs.
        folders: Folders of the finished runs by seed.
    """

    values: dict[str, str]
    cells: pd.DataFrame
    rows: pd.DataFrame
    folders: dict[int, Path]

    @property
    def label(self) -> str:
        """The values of the axes, short enough for a legend."""
        axes = tuple(self.values)
        return " · ".join(
            word if _is_self_explanatory(word) else f"{shorten_path(axis, axes)} {word}"
            for axis, word in self.values.items()
        )

    @cached_property
    def finished(self) -> pd.DataFrame:
        """The entries of the runs that finished."""
        return self.cells[self.cells["status"] == "finished"]

    def summary_values(self, name: str) -> list[float]:
        """Return a number of the summary per finished seed, NaN where it is undefined."""
        if name not in self._summary_values:
            cells = self.finished
            known = cells[name] if name in cells else [float("nan")] * len(cells)
            self._summary_values[name] = [float(x) for x in pd.to_numeric(known, errors="coerce")]
        return self._summary_values[name]

    def num_failures(self) -> list[float]:
        """Return the number of times that a client did not deliver, per finished seed."""
        return [float(len(failures)) for failures in self.finished.get("failures", [])]

    def metric_rows(self, name: str, group: str = "all") -> pd.DataFrame:
        """Return the rows of a metric of the whole federation over all rounds."""
        return self.rows.take(self._positions.get((name, group, False), NO_POSITIONS))

    def final_rows(self, name: str, group: str = "all") -> pd.DataFrame:
        """Return the rows of a metric of the whole federation after the last round."""
        if (name, group) not in self._final_rows:
            self._final_rows[name, group] = select_last_round(self.metric_rows(name, group))
        return self._final_rows[name, group]

    def final_values(self, name: str, group: str = "all") -> FinalValues:
        """Return the values of a metric of the whole federation after the last round.

        They equal those of `final_rows`. Tables need some fifty metrics per setting, for which
        lists are faster than data frames.
        """
        if (name, group) not in self._final_values:
            places = self._positions.get((name, group, False))
            values = NO_VALUES if places is None else self._values_at(places)
            self._final_values[name, group] = values
        return self._final_values[name, group]

    def _values_at(self, places: NDArray[np.intp]) -> FinalValues:
        """Return the values at some positions, of the last round of each seed."""
        seeds, rounds, *columns = self._arrays
        row_seeds, row_rounds = seeds[places], rounds[places]
        distinct_seeds, seed_indices = np.unique(row_seeds, return_inverse=True)
        latest = np.zeros(len(distinct_seeds), row_rounds.dtype)
        np.maximum.at(latest, seed_indices, row_rounds)
        last_positions = places[row_rounds == latest[seed_indices]]
        return FinalValues(*(column[last_positions].tolist() for column in columns))

    @cached_property
    def _arrays(self) -> tuple[NDArray[Any], ...]:
        """Seeds, rounds, values, bounds, validity and notes of all rows."""
        kinds = {"seed": int, "round": int, "valid": bool, "note": object}
        names = ("seed", "round", "value", "low", "high", "valid", "note")
        return tuple(self.rows[name].to_numpy(kinds.get(name, float)) for name in names)

    @cached_property
    def _final_values(self) -> dict[tuple[str, str], FinalValues]:
        """Cache of `final_values`; tables and figures need the same."""
        return {}

    @cached_property
    def _final_rows(self) -> dict[tuple[str, str], pd.DataFrame]:
        return {}

    @cached_property
    def _summary_values(self) -> dict[str, list[float]]:
        return {}

    @cached_property
    def _client_rows(self) -> dict[str, pd.DataFrame]:
        return {}

    @cached_property
    def _positions(self) -> dict[tuple[str, str, bool], NDArray[np.intp]]:
        """Positions of the rows by metric, group, and whether they are of single clients.

        Rows are looked up hundreds of times per setting. Searching the table each time would take
        most of the time of a page with many settings.
        """
        kinds = self.rows[KIND].to_numpy() if KIND in self.rows else _number_kinds(self.rows)
        order = np.argsort(kinds, kind="stable")
        starts = np.flatnonzero(np.diff(kinds[order])) + 1
        metrics, groups = (self.rows[name].to_numpy(object) for name in ("metric", "group"))
        by_client = self.rows["client"].to_numpy() >= 0
        runs = np.split(order, starts) if len(order) else []
        return {(str(metrics[p[0]]), str(groups[p[0]]), bool(by_client[p[0]])): p for p in runs}

    def undefined_reason(self, name: str, group: str = "all") -> str:
        """Return why a metric is undefined after the last round of any seed, or an empty string."""
        final = self.final_values(name, group)
        pairs = zip(final.values, final.notes, strict=True)
        return "; ".join(dict.fromkeys(str(n) for value, n in pairs if value != value and n))

    def first_seed_client_rows(self, name: str) -> pd.DataFrame:
        """Return the rows of a metric by client, after the last round of the first seed."""
        rows = self.client_rows(name)
        return rows[rows["seed"] == self.first_seed]

    def client_rows(self, name: str) -> pd.DataFrame:
        """Return the rows of a metric by client, after the last round of every seed."""
        if name not in self._client_rows:
            rows = select_last_round(self.client_history(name))
            self._client_rows[name] = rows.sort_values(["seed", "client"])
        return self._client_rows[name]

    def client_history(self, name: str) -> pd.DataFrame:
        """Return the rows of a metric by client, over all rounds of every seed."""
        by_client = {key: rows for key, rows in self._positions.items() if key[2]}
        places = [rows for (metric, _, _), rows in by_client.items() if metric == name]
        return self.rows.take(np.sort(np.concatenate(places))) if places else self.rows[:0]

    @property
    def first_seed(self) -> int | None:
        """The first seed whose run finished."""
        return next(iter(self.folders), None)

    def read_signals(self) -> list[pd.DataFrame]:
        """Return the scores of the records in the runs that saved them, in order of seeds."""
        paths = [folder / "signals.parquet" for folder in self.folders.values()]
        return [read_table(path) for path in paths if path.exists()]

    def read_samples(self) -> dict[str, NDArray[np.generic]] | None:
        """Return the images and class counts of the first seed's run, if it saved them."""
        path = self._find_file("samples.npz")
        return read_arrays(path) if path else None

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """The experiment of the first seed's run as JSON; empty if none finished."""
        return self._read_json("experiment.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Software and hardware of the first seed's run; empty if none finished."""
        return self._read_json("environment.json")

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self._find_file(name)
        return read_json(path) if path else {}

    def _find_file(self, name: str) -> Path | None:
        path = next((folder / name for folder in self.folders.values()), None)
        return path if path and path.exists() else None


@dataclass(frozen=True, eq=False)
class Grid:
    """All settings of an experiment, in the order of the sweep.

    Attributes:
        results: Results that the grid was built from.
        axes: Values as text of every axis with more than one value, by field path.
        settings: One per combination of values.
    """

    results: Results
    axes: dict[str, list[str]]
    settings: list[Setting]

    @cached_property
    def numbers(self) -> RunNumbers:
        """Numbers of all cells, by name."""
        return RunNumbers(self.results)

    @cached_property
    def finished(self) -> list[Setting]:
        """The settings with at least one finished run."""
        return [setting for setting in self.settings if setting.folders]

    def select_distinct(self, *parts: str) -> list[Setting]:
        """Return one finished setting per value of some parts of the experiment.

        Files that depend on these parts alone, such as the class counts of the clients, are then
        read once instead of for every setting.
        """
        settings: dict[str, Setting] = {}
        for setting in self.finished:
            described = [setting.experiment.get(part) for part in parts]
            settings.setdefault(json.dumps([setting.first_seed, described]), setting)
        return list(settings.values())

    @cached_property
    def has_clients(self) -> bool:
        """True if any run has more than one client."""
        return any(setting.rows["client"].max() > 0 for setting in self.finished)

    @cached_property
    def has_history(self) -> bool:
        """True if any run was scored after more than one round."""
        return any(s.metric_rows("accuracy")["round"].nunique() > 1 for s in self.finished)

    @property
    def num_parallel_runs(self) -> int:
        """The largest number of runs that shared the machine."""
        cells = self.results.cells
        known = cells["side_by_side"].dropna().tolist() if "side_by_side" in cells else []
        return max([1, *map(int, known)])

    @property
    def time_note(self) -> str:
        """A note on how the times of the runs compare."""
        note = (
            "CPU seconds are the processor time of all processes of a run over all its rounds; "
            "noise and features are made before the first."
        )
        if self.num_parallel_runs == 1:
            return note
        return (
            f"{note} Up to {self.num_parallel_runs} runs were side by side on this machine, so "
            "clock times include their load."
        )

    @property
    def heads(self) -> list[str]:
        """The names of the columns that identify a setting."""
        return [shorten_path(axis, tuple(self.axes)) for axis in self.axes] or ["run"]

    @property
    def seeds(self) -> list[int]:
        """The seeds of the sweep."""
        return sorted({int(seed) for seed in self.results.cells["seed"]})

    @property
    def shown_seeds(self) -> str:
        """The seeds of the runs that are shown where a setting can show only one."""
        seeds = dict.fromkeys(str(setting.first_seed) for setting in self.finished)
        return f"seed {' or '.join(seeds)}"

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return str(self.results.cells["experiment"].iloc[0])

    def shorten(self, label: str) -> str:
        """Return a label without the fields of classes whose names alone tell them apart."""
        for values in self.axes.values():
            names = [value.partition("(")[0] for value in values]
            for value, name in zip(values, names, strict=True):
                if names.count(name) == 1 and name != value:
                    label = label.replace(value, name)
        return label

    def name_settings(self, column: str, *settings: Setting) -> list[str]:
        """Return short and distinct names of settings, for a sentence.

        Where there are many axes, a name has the values of those that change a number most.

        Args:
            column: Number of the summary.
            settings: Settings.
        """
        axes = self._rank_axes(column) if len(self.axes) > FEW_AXES else list(self.axes)
        names: list[str] = []
        for count in range(min(FEW_AXES, len(axes)), len(axes) + 1):
            kept = {axis for axis in self.axes if axis in axes[:count]}
            short = [
                replace(s, values={a: w for a, w in s.values.items() if a in kept})
                for s in settings
            ]
            names = [self.shorten(setting.label) for setting in short]
            if len({*names}) == len({*settings}):
                break
        return names

    def _rank_axes(self, column: str) -> list[str]:
        """Return the axes by the range of a number's means over their values, widest first."""
        if column not in self._ranked:
            means = [mean(setting.summary_values(column)) for setting in self.finished]
            ranges = {}
            for axis, words in self.axes.items():
                own = [s.values[axis] for s in self.finished]
                by_word = [
                    mean([m for m, w in zip(means, own, strict=True) if w == word])
                    for word in words
                ]
                known = drop_undefined(by_word)
                ranges[axis] = max(known) - min(known) if known else 0.0
            self._ranked[column] = sorted(self.axes, key=lambda axis: -ranges[axis])
        return self._ranked[column]

    @cached_property
    def _ranked(self) -> dict[str, list[str]]:
        return {}

    def describe(self, setting: Setting) -> list[str]:
        """Return the values of a setting, one per column of `heads`."""
        return list(setting.values.values()) or [self.name]


@lru_cache(maxsize=1)
def build_grid(results: Results) -> Grid:
    """Return the grid of an experiment's results. Cached: the terminal and the page share it."""
    cells = _use_python_strings(results.cells)
    paths = [str(name) for name in cells.columns if str(name).startswith(PREFIX)]
    texts = {path: [format_value(item, path) for item in cells[path]] for path in paths}
    words = {path.removeprefix(PREFIX): values for path, values in texts.items()}
    axes = {axis: list(dict.fromkeys(values)) for axis, values in words.items()}
    axes = {axis: values for axis, values in axes.items() if len(values) > 1}
    members: dict[tuple[str, ...], list[int]] = {}
    for i in range(len(cells)):
        members.setdefault(tuple(words[axis][i] for axis in axes), []).append(i)
    by_run = _group_rows_by_run(results)
    settings = []
    for key, positions in members.items():
        values = dict(zip(axes, key, strict=True))
        settings.append(_build_setting(results.path, values, cells.iloc[positions], by_run))
    return Grid(results, axes, settings)


def list_distinct(grid: Grid, column: str) -> list[str]:
    """Return the distinct values of a column of the summary."""
    cells = grid.results.cells
    return list(dict.fromkeys(map(str, cells[column].dropna()))) if column in cells else []


def shorten_path(axis: str, among: tuple[str, ...] = ()) -> str:
    """Return the last part of a field path, or the whole path if others end alike.

    >>> shorten_path("layout.fraction")
    'fraction'
    """
    last = axis.split(".")[-1]
    alike = [other for other in among if other.split(".")[-1] == last]
    return axis if len(alike) > 1 else last.replace("_", " ")


def group_positions(table: pd.DataFrame, keys: Any) -> dict[Any, NDArray[np.intp]]:
    """Return the positions of a table's rows by the values of some keys."""
    return {} if table.empty else dict(table.groupby(keys, sort=False).indices)  # type: ignore[arg-type]


def select_last_round(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last round of every seed."""
    if rows.empty:
        return rows
    if rows["seed"].nunique() == 1:
        last: pd.DataFrame = rows[rows["round"] == rows["round"].max()]
        return last
    return rows[rows["round"] == rows.groupby("seed")["round"].transform("max")]


def drop_invalid(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that are valid and have a value."""
    return rows[rows["valid"].astype(bool) & rows["value"].notna()]


class RowsByRun(NamedTuple):
    """The rows of all runs, and their positions by run id and seed."""

    rows: pd.DataFrame
    places: dict[tuple[str, int], NDArray[np.intp]]


def _build_setting(
    root: Path, values: dict[str, str], cells: pd.DataFrame, by_run: RowsByRun
) -> Setting:
    finished = cells[cells["status"] == "finished"]
    keys = [(str(a), int(b)) for a, b in zip(finished["run_id"], finished["seed"], strict=True)]
    positions = [by_run.places[key] for key in keys if key in by_run.places]
    rows = by_run.rows.take(np.concatenate(positions)) if positions else _create_empty_rows()
    rows = rows.reset_index(drop=True)
    folders = {seed: run_folder(root, run_id, seed) for run_id, seed in keys}
    return Setting(values, cells, rows, folders)


def _group_rows_by_run(results: Results) -> RowsByRun:
    """Return the rows of each run, once even if several cells share the run."""
    settings = [name for name in results.rows.columns if str(name).startswith(PREFIX)]
    rows, cells = results.rows.drop(columns=settings), results.cells
    if rows.empty:
        return RowsByRun(rows, {})
    if cells.duplicated(["run_id", "seed"]).any():
        rows = rows.drop_duplicates()
    rows = _use_python_strings(rows)
    rows = rows.assign(**{KIND: _number_kinds(rows)})
    positions = group_positions(rows, ["run_id", "seed"]).items()
    return RowsByRun(rows, {(str(run_id), int(seed)): at for (run_id, seed), at in positions})


def _use_python_strings(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with Python strings; picking a few rows of Arrow strings is slow."""
    texts = [name for name in table.columns if pd.api.types.is_string_dtype(table[name].dtype)]
    return table.astype(dict.fromkeys(texts, object))


def _number_kinds(rows: pd.DataFrame) -> NDArray[np.intp]:
    """Return a number per row that is equal for equal metric, group and kind of client."""
    columns = [rows["metric"], rows["group"], rows["client"] >= 0]
    return np.asarray(rows.groupby(columns, sort=False).ngroup(), np.intp)


def _create_empty_rows() -> pd.DataFrame:
    return make_rows_table(()).assign(run_id="", seed=0)


def _is_self_explanatory(word: str) -> bool:
    """Return whether a value is clear without its field name, as classes are and numbers not."""
    return word[:1].isupper() or ", " in word
