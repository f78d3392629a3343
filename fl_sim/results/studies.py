"""Results of studies: the numbers and images of every point, read from their folders.

<out>/<study>/study.json                       every point and seed, with its numbers
<out>/<study>/<point>/seed=<s>/numbers.json    images.npz
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from fl_sim.core.atomic_io import DamagedFileError, check_files, read_arrays, read_json
from fl_sim.results.folders import check_entry
from fl_sim.results.skipped import read_skipped
from fl_sim.results.summaries import SETTINGS, Entry, drop_hashes, read_summary

SUMMARY, NUMBERS, IMAGES = "study.json", "numbers.json", "images.npz"


@dataclass(frozen=True, eq=False)
class StudyResults:
    """Results of a study.

    Attributes:
        path: Folder of the study.
        question: Question that it answers.
        cells: One row per point and seed, with `settings.*` and `numbers.*`.
        hardware: Processor and version of torch.
        errors: One line per point that could not be measured, or whose files are damaged.
        damaged: One line per file that was changed after it was written.
        skipped: One row per point and seed that was left out, with the `reason`.
    """

    path: Path
    question: str
    cells: pd.DataFrame
    hardware: str
    errors: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    skipped: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def complete(self) -> bool:
        """True if every requested point was measured."""
        return not self.errors

    @property
    def axes(self) -> list[str]:
        """Names of the axes."""
        return _list_names(self.cells, SETTINGS)

    @property
    def seeds(self) -> list[int]:
        """Seeds, in ascending order."""
        return sorted({int(seed) for seed in self.cells["seed"]})

    @property
    def seconds(self) -> float:
        """Total wall-clock time of all measured points, in seconds."""
        return float(self.cells["seconds"].sum()) if "seconds" in self.cells else 0.0

    @property
    def cpu_seconds(self) -> float:
        """Total processor time of all points, in seconds; NaN if it is missing for any of them."""
        cells = self.cells
        known = cells["cpu_seconds"] if "cpu_seconds" in cells else pd.Series([float("nan")])
        return float(known.sum(skipna=False))

    @property
    def numbers(self) -> list[str]:
        """Names of the measured numbers."""
        return _list_names(self.cells, "numbers.")


def _list_names(table: pd.DataFrame, prefix: str) -> list[str]:
    return [c.removeprefix(prefix) for c in table.columns if c.startswith(prefix)]


def read_numbers(folder: Path) -> dict[str, Any] | None:
    """Return the numbers of a point and their times, or None if it is not measured yet.

    Raises:
        DamagedFileError: If one of its files is damaged.
    """
    if not (folder / NUMBERS).exists():
        return None
    content = read_json(folder / NUMBERS)
    check_entry(folder / NUMBERS, content, ("numbers",))
    check_files(folder, content.get("files"), (IMAGES,))
    return drop_hashes(content)


def load_study(path: str | Path) -> StudyResults:
    """Read the results of a study, from its folder.

    Raises:
        RequestError: If there are none.
        DamagedFileError: If the summary itself cannot be read.
    """
    root = Path(path)
    content, damaged = read_summary(root / SUMMARY, ("cells",), _check_shape, _check_whole)
    check_entry(root / SUMMARY, content, ("question", "environment"))
    environment, entries = content["environment"], content["cells"]
    if not {"processor", "torch"} <= environment.keys():
        raise DamagedFileError(root / SUMMARY, "names no processor and torch as its environment")
    if any(entry["settings"].keys() != entries[0]["settings"].keys() for entry in entries):
        raise DamagedFileError(root / SUMMARY, "has cells of different axes")
    cells = pd.json_normalize(entries)
    for name in _list_names(cells, "numbers."):  # JSON has null for a number that is not defined
        cells[f"numbers.{name}"] = pd.to_numeric(cells[f"numbers.{name}"])
    return StudyResults(
        path=root,
        question=content["question"],
        cells=cells,
        damaged=tuple(damaged),
        hardware=f"{environment['processor']}, torch {environment['torch']}",
        errors=tuple(f"{e['settings']}: {e['error']}" for e in entries if "error" in e),
        skipped=read_skipped(root / SUMMARY, content),
    )


def _check_shape(path: Path, entry: Entry) -> None:
    content = "error" if "error" in entry else "numbers"
    check_entry(path, entry, ("settings", "seed", "folder", content))
    folder = Path(entry["folder"])
    outside = folder.is_absolute() or ".." in folder.parts
    if outside or not all(isinstance(word, str) for word in entry["settings"].values()):
        raise DamagedFileError(path, f"cannot hold {json.dumps(entry)[:80]} as a cell")


def _check_whole(root: Path, entry: Entry, damaged: list[str]) -> None:
    if "error" not in entry:
        read_numbers(root / entry["folder"])


def read_images(results: StudyResults) -> dict[str, dict[str, UInt8[np.ndarray, "_ c _ _"]]]:
    """Return the images of the first seed, by point and name."""
    images: dict[str, dict[str, UInt8[np.ndarray, "_ c _ _"]]] = {}
    table = results.cells[results.cells["seed"] == results.cells["seed"].iloc[0]]
    for _, cell in table.iterrows():
        path = results.path / cell["folder"] / IMAGES
        if path.exists() and not isinstance(cell.get("error"), str):
            words = [_describe_setting(axis, cell[f"settings.{axis}"]) for axis in results.axes]
            images[", ".join(words)] = read_arrays(path)
    return images


def _describe_setting(axis: str, value: str) -> str:
    """Return the value of an axis in words; a number gets the name of its axis."""
    return f"{axis} {value}" if value.lstrip("-")[:1].isdigit() else value
