"""What a study left behind, read back.

<out>/<study>/study.json                       every point and seed, with its numbers
<out>/<study>/<point>/seed=<s>/numbers.json    images.npz
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8

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
        errors: what went wrong, once a point that could not be measured.
    """

    path: Path
    question: str
    cells: pd.DataFrame
    hardware: str
    errors: tuple[str, ...]

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
    def numbers(self) -> list[str]:
        """Names of what was measured."""
        return _named(self.cells, "numbers.")


def _named(table: pd.DataFrame, prefix: str) -> list[str]:
    return [c.removeprefix(prefix) for c in table.columns if c.startswith(prefix)]


def load_study(path: str | Path) -> StudyResults:
    """Read the results of a study, from its folder.

    Raises:
        RequestError: where there are none.
    """
    root = Path(path)
    if not (root / SUMMARY).exists():
        raise RequestError(f"no results in {root}: {SUMMARY} is missing")
    content = json.loads((root / SUMMARY).read_text())
    where = content["environment"]
    failed = [cell for cell in content["cells"] if "error" in cell]
    return StudyResults(
        path=root,
        question=content["question"],
        cells=pd.json_normalize(content["cells"]),
        hardware=f"{where['processor']}, torch {where['torch']}",
        errors=tuple(f"{cell['settings']}: {cell['error']}" for cell in failed),
    )


def images_of(results: StudyResults) -> dict[str, dict[str, UInt8[np.ndarray, "_ c _ _"]]]:
    """Return the images of the first seed, by point, and then by name."""
    found: dict[str, dict[str, UInt8[np.ndarray, "_ c _ _"]]] = {}
    table = results.cells[results.cells["seed"] == results.cells["seed"].iloc[0]]
    for _, cell in table.iterrows():
        path = results.path / cell["folder"] / IMAGES
        if path.exists():
            point = ", ".join(_words(axis, cell[f"settings.{axis}"]) for axis in results.axes)
            with np.load(path, allow_pickle=False) as kept:
                found[point] = {name: kept[name] for name in kept.files}
    return found


def _words(axis: str, value: str) -> str:
    """Return a setting in words: a number alone says too little."""
    return f"{axis} {value}" if value.lstrip("-")[:1].isdigit() else value
