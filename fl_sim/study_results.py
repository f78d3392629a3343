"""What a study left behind, read back.

<out>/<study>/study.json                       every point and seed, with its numbers
<out>/<study>/<point>/seed=<s>/numbers.json    images.npz
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from fl_sim.atomic_io import SEAL, DamagedFileError, check_files, read_arrays, read_json
from fl_sim.errors import RequestError

SUMMARY, NUMBERS, IMAGES = "study.json", "numbers.json", "images.npz"


@dataclass(frozen=True, eq=False)
class StudyResults:
    """What a study left behind.

    Attributes:
        path: its folder.
        question: that it answers.
        cells: one row a point and seed, with `settings.*` and `numbers.*`.
        hardware: processor and torch.
        errors: what went wrong, once a point that could not be measured, or whose files are
            damaged.
        damaged: one line for each file that was changed since it was written.
    """

    path: Path
    question: str
    cells: pd.DataFrame
    hardware: str
    errors: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every point that was asked for was measured."""
        return not self.errors

    @property
    def axes(self) -> list[str]:
        """Names of what was varied."""
        return _named(self.cells, "settings.")

    @property
    def seeds(self) -> list[int]:
        """Seeds, in ascending order."""
        return sorted({int(seed) for seed in self.cells["seed"]})

    @property
    def seconds(self) -> float:
        """Wall-clock time of all points that were measured, added up."""
        return float(self.cells["seconds"].sum()) if "seconds" in self.cells else 0.0

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all points, added up; NaN where any did not measure it."""
        cells = self.cells
        known = cells["cpu_seconds"] if "cpu_seconds" in cells else pd.Series([float("nan")])
        return float(known.sum(skipna=False))

    @property
    def numbers(self) -> list[str]:
        """Names of what was measured."""
        return _named(self.cells, "numbers.")


def _named(table: pd.DataFrame, prefix: str) -> list[str]:
    return [c.removeprefix(prefix) for c in table.columns if c.startswith(prefix)]


def read_numbers(folder: Path) -> dict[str, Any] | None:
    """Return what was measured at a point, or None where nothing was yet.

    Raises:
        DamagedFileError: where one of its files is damaged.
    """
    if not (folder / NUMBERS).exists():
        return None
    content = read_json(folder / NUMBERS)
    if "numbers" not in content:
        raise DamagedFileError(folder / NUMBERS, "holds no numbers")
    check_files(folder, content.get("files"), (IMAGES,))
    return {name: own for name, own in content.items() if name not in ("files", SEAL)}


def load_study(path: str | Path) -> StudyResults:
    """Read the results of a study, from its folder.

    Raises:
        RequestError: where there are none.
    """
    root = Path(path)
    if not (root / SUMMARY).exists():
        raise RequestError(f"no results in {root}: {SUMMARY} is missing")
    content = read_json(root / SUMMARY)
    lacking = [name for name in ("question", "cells", "environment") if name not in content]
    if lacking:
        raise DamagedFileError(root / SUMMARY, f"has no {lacking[0]}")
    where, damaged = content["environment"], []
    for cell in content["cells"]:
        if "error" not in cell and (root / cell["folder"]).exists():
            try:
                read_numbers(root / cell["folder"])
            except DamagedFileError as error:
                damaged.append(str(error))
                cell["error"] = str(error)
                cell.pop("numbers", None)
    failed = [cell for cell in content["cells"] if "error" in cell]
    cells = pd.json_normalize(content["cells"])
    for name in _named(cells, "numbers."):  # JSON has null for what is not defined
        cells[f"numbers.{name}"] = pd.to_numeric(cells[f"numbers.{name}"])
    return StudyResults(
        path=root,
        question=content["question"],
        cells=cells,
        damaged=tuple(damaged),
        hardware=f"{where['processor']}, torch {where['torch']}",
        errors=tuple(f"{cell['settings']}: {cell['error']}" for cell in failed),
    )


def images_of(results: StudyResults) -> dict[str, dict[str, UInt8[np.ndarray, "_ c _ _"]]]:
    """Return the images of the first seed, by point, and then by name."""
    found: dict[str, dict[str, UInt8[np.ndarray, "_ c _ _"]]] = {}
    table = results.cells[results.cells["seed"] == results.cells["seed"].iloc[0]]
    for _, cell in table.iterrows():
        path = results.path / cell["folder"] / IMAGES
        if path.exists() and not isinstance(cell.get("error"), str):
            point = ", ".join(_words(axis, cell[f"settings.{axis}"]) for axis in results.axes)
            found[point] = read_arrays(path)
    return found


def _words(axis: str, value: str) -> str:
    """Return a setting in words: a number alone says too little."""
    return f"{axis} {value}" if value.lstrip("-")[:1].isdigit() else value
