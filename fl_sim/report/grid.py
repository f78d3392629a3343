"""The grid of a sweep as the report sees it: settings, each with one run a seed."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_sim.atomic_io import read_arrays, read_json, read_table
from fl_sim.report.formats import value
from fl_sim.results import SETTINGS, Results, rows_table, run_folder

FRACTION = "layout.fraction"
PREFIX = SETTINGS
NOWHERE = np.empty(0, np.intp)


@dataclass(frozen=True, eq=False)
class Setting:
    """One point of the grid.

    Attributes:
        values: what tells it from the others, by axis, in words.
        cells: its entries in the summary, one a seed, failed ones too.
        rows: the tidy rows of its finished runs.
        folders: the folders of its finished runs, by seed.
    """

    values: dict[str, str]
    cells: pd.DataFrame
    rows: pd.DataFrame
    folders: dict[int, Path]

    @property
    def label(self) -> str:
        """The values in words, short enough for a legend."""
        return " · ".join(
            word if _says_enough(word) else f"{short_name(axis, tuple(self.values))} {word}"
            for axis, word in self.values.items()
        )

    @property
    def finished(self) -> pd.DataFrame:
        """The entries of the runs that finished."""
        return self.cells[self.cells["status"] == "finished"]

    def column(self, name: str) -> list[float]:
        """Return a number of the summary for every finished seed; NaN where it is undefined."""
        cells = self.finished
        if name not in cells:
            return [float("nan")] * len(cells)
        return [float(item) for item in pd.to_numeric(cells[name], errors="coerce")]

    def num_failures(self) -> list[float]:
        """Return how many times a client did not deliver, for every finished seed."""
        return [float(len(failures)) for failures in self.finished.get("failures", [])]

    def metric(self, name: str, group: str = "all") -> pd.DataFrame:
        """Return the rows of a metric about the whole federation, over all rounds."""
        return self.rows.take(self._places.get((name, group, False), NOWHERE))

    def final(self, name: str, group: str = "all") -> pd.DataFrame:
        """Return the rows of a metric of the whole federation after the last round."""
        if (name, group) not in self._finals:
            self._finals[name, group] = last_round(self.metric(name, group))
        return self._finals[name, group]

    @cached_property
    def _finals(self) -> dict[tuple[str, str], pd.DataFrame]:
        """What was looked up already: tables and figures ask for the same."""
        return {}

    @cached_property
    def _places(self) -> dict[tuple[str, str, bool], NDArray[np.intp]]:
        """Where the rows of a metric and a group stand, of clients or of the whole federation.

        They are looked up hundreds of times, and to search the table each time is what a page of
        many settings would spend most of its time on.
        """
        return places_of(
            self.rows, [self.rows["metric"], self.rows["group"], self.rows["client"] >= 0]
        )

    def why_undefined(self, name: str, group: str = "all") -> str:
        """Return why a metric has no number after the last round, of any seed; else nothing."""
        rows = self.final(name, group)
        bare = rows[rows["value"].isna()]
        return "; ".join(dict.fromkeys(str(note) for note in bare["note"] if note))

    def clients(self, name: str) -> pd.DataFrame:
        """Return the rows of a metric by client, after the last round of the first seed."""
        rows = self.all_clients(name)
        return rows[rows["seed"] == self.first_seed]

    def all_clients(self, name: str) -> pd.DataFrame:
        """Return the rows of a metric by client, after the last round of every seed."""
        places = [
            own for (metric, _, client), own in self._places.items() if metric == name and client
        ]
        rows = self.rows.take(np.sort(np.concatenate(places))) if places else self.rows[:0]
        return last_round(rows).sort_values(["seed", "client"])

    @property
    def first_seed(self) -> int | None:
        """The first seed whose run finished."""
        return next(iter(self.folders), None)

    def signals(self) -> pd.DataFrame | None:
        """Return the scores of the records in the first seed's run."""
        path = self._file("signals.parquet")
        return read_table(path) if path else None

    def samples(self) -> dict[str, NDArray[np.generic]] | None:
        """Return the images and the shares that the first seed's run saved."""
        path = self._file("samples.npz")
        return read_arrays(path) if path else None

    @cached_property
    def experiment(self) -> dict[str, Any]:
        """The description of the first seed's run; empty where none finished."""
        return self._json("experiment.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What the first seed's run ran on; empty where none finished."""
        return self._json("environment.json")

    def _json(self, name: str) -> dict[str, Any]:
        path = self._file(name)
        return read_json(path) if path else {}

    def _file(self, name: str) -> Path | None:
        path = next((folder / name for folder in self.folders.values()), None)
        return path if path and path.exists() else None


@dataclass(frozen=True, eq=False)
class Grid:
    """Every setting of an experiment, in the order in which they were asked for.

    Attributes:
        results: where they come from.
        axes: the values in words of every axis with more than one, by field path.
        settings: one a combination.
    """

    results: Results
    axes: dict[str, list[str]]
    settings: list[Setting]

    @property
    def finished(self) -> list[Setting]:
        """The settings with at least one finished run."""
        return [setting for setting in self.settings if setting.folders]

    @property
    def has_clients(self) -> bool:
        """Whether there is more than one client in any run."""
        return any(setting.rows["client"].max() > 0 for setting in self.finished)

    @property
    def has_course(self) -> bool:
        """Whether any run was scored after more than one round."""
        return any(setting.metric("accuracy")["round"].nunique() > 1 for setting in self.finished)

    @property
    def side_by_side(self) -> int:
        """How many runs shared the machine at most."""
        cells = self.results.cells
        known = cells["side_by_side"].dropna().tolist() if "side_by_side" in cells else []
        return max([1, *map(int, known)])

    @property
    def about_time(self) -> str:
        """What to know before times of the runs are compared."""
        told = "CPU seconds are the processor time of all processes of a run, over all its rounds"
        if self.side_by_side == 1:
            return f"{told}."
        return (
            f"{told}: up to {self.side_by_side} runs were side by side on this machine, where the "
            "clock measures their load as well."
        )

    @property
    def heads(self) -> list[str]:
        """The names of the columns that tell settings apart."""
        return [short_name(axis, tuple(self.axes)) for axis in self.axes] or ["run"]

    @property
    def seeds(self) -> list[int]:
        """The seeds that were asked for."""
        return sorted({int(seed) for seed in self.results.cells["seed"]})

    @property
    def shown_seeds(self) -> str:
        """The seeds of the runs that stand for their settings where only one can be shown."""
        seeds = dict.fromkeys(str(setting.first_seed) for setting in self.finished)
        return f"seed {' or '.join(seeds)}"

    @property
    def name(self) -> str:
        """The name of the experiment."""
        return str(self.results.cells["experiment"].iloc[0])

    def words(self, setting: Setting) -> list[str]:
        """Return what tells a setting apart, one word a column of `heads`."""
        return list(setting.values.values()) or [self.name]


def grid_of(results: Results) -> Grid:
    """Return the grid of an experiment's results."""
    cells = results.cells
    paths = [str(name) for name in cells.columns if str(name).startswith(PREFIX)]
    words = {
        path.removeprefix(PREFIX): [value(item, path) for item in cells[path]] for path in paths
    }
    axes = {axis: list(dict.fromkeys(own)) for axis, own in words.items()}
    axes = {axis: own for axis, own in axes.items() if len(own) > 1}
    members: dict[tuple[str, ...], list[int]] = {}
    for i in range(len(cells)):
        members.setdefault(tuple(words[axis][i] for axis in axes), []).append(i)
    by_run = _rows_by_run(results)
    settings = [
        _setting(results.path, dict(zip(axes, key, strict=True)), cells.iloc[own], by_run)
        for key, own in members.items()
    ]
    return Grid(results, axes, settings)


def short_name(axis: str, among: tuple[str, ...] = ()) -> str:
    """Return the last part of a field path, or all of it where others end alike.

    >>> short_name("layout.fraction")
    'fraction'
    """
    last = axis.split(".")[-1]
    alike = [other for other in among if other.split(".")[-1] == last]
    return axis if len(alike) > 1 else last.replace("_", " ")


def places_of(table: pd.DataFrame, keys: Any) -> dict[Any, NDArray[np.intp]]:
    """Return the positions of a table's rows by the values of some keys."""
    return {} if table.empty else dict(table.groupby(keys, sort=False).indices)  # type: ignore[arg-type]


def last_round(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last round of every seed."""
    if rows.empty:
        return rows
    if rows["seed"].nunique() == 1:
        last: pd.DataFrame = rows[rows["round"] == rows["round"].max()]
        return last
    return rows[rows["round"] == rows.groupby("seed")["round"].transform("max")]


def _setting(
    root: Path,
    values: dict[str, str],
    cells: pd.DataFrame,
    by_run: dict[tuple[str, int], pd.DataFrame],
) -> Setting:
    done = cells[cells["status"] == "finished"]
    keys = [(str(a), int(b)) for a, b in zip(done["run_id"], done["seed"], strict=True)]
    tables = [by_run[key] for key in keys if key in by_run]
    rows = pd.concat(tables, ignore_index=True) if tables else _no_rows()
    folders = {seed: run_folder(root, run_id, seed) for run_id, seed in keys}
    return Setting(values, cells, rows, folders)


def _rows_by_run(results: Results) -> dict[tuple[str, int], pd.DataFrame]:
    """Return the rows of each run, once even where it is several cells."""
    settings = [name for name in results.rows.columns if str(name).startswith(PREFIX)]
    rows, cells = results.rows.drop(columns=settings), results.cells
    if rows.empty:
        return {}
    if cells.duplicated(["run_id", "seed"]).any():
        rows = rows.drop_duplicates()
    words = [name for name in ("metric", "group", "note") if name in rows]
    rows = rows.astype(dict.fromkeys(words, object))  # Arrow's strings are slow row by row
    found = places_of(rows, ["run_id", "seed"])
    return {(str(run_id), int(seed)): rows.take(own) for (run_id, seed), own in found.items()}


def _no_rows() -> pd.DataFrame:
    return rows_table(()).assign(run_id="", seed=0)


def _says_enough(word: str) -> bool:
    """Say whether a value needs no name: classes and whole parts do not, as numbers do."""
    return word[:1].isupper() or ", " in word
