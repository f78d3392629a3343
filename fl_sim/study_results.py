"""What a study left behind, read back.

<out>/<study>/study.json                       every point and seed, with its numbers
<out>/<study>/<point>/seed=<s>/numbers.json    images.npz
"""

import json
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
    _check(root / SUMMARY, content)
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


def _check(path: Path, content: dict[str, Any]) -> None:
    """Check the shape of a summary, for one that carries no hash of its own.

    Raises:
        DamagedFileError: for anything that no study writes.
    """
    for name, kind in (("question", str), ("cells", list), ("environment", dict)):
        if not isinstance(content.get(name), kind):
            raise DamagedFileError(path, f"has no {name}")
    for name in ("processor", "torch"):
        if name not in content["environment"]:
            raise DamagedFileError(path, f"has no {name} in its environment")
    if not content["cells"]:
        raise DamagedFileError(path, "has no cells")
    for cell in content["cells"]:
        if not _is_cell(cell, content["cells"][0]):
            raise DamagedFileError(path, f"cannot hold {json.dumps(cell)[:80]} as a cell")


def _is_cell(cell: Any, first: Any) -> bool:
    """Return whether a value is a point of a study, of the same axes as the first."""
    if not (isinstance(cell, dict) and isinstance(cell.get("settings"), dict)):
        return False
    settings, folder, numbers = cell["settings"], cell.get("folder"), cell.get("numbers", {})
    values = numbers.values() if isinstance(numbers, dict) else ("",)
    return (
        set(settings) == set(first["settings"])
        and all(isinstance(word, str) for word in settings.values())
        and type(cell.get("seed")) is int
        and isinstance(folder, str)
        and not Path(folder).is_absolute()
        and ".." not in Path(folder).parts
        and all(own is None or type(own) in (int, float) for own in values)
        and isinstance(cell.get("error", ""), str)
        and ("error" in cell or "numbers" in cell)
        and all(type(cell.get(name, 0.0)) in (int, float) for name in ("seconds", "cpu_seconds"))
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
