"""Studies: what is measured is something other than a federation.

A study is a Python file with a function `measure`. It takes a seed, and by name one value of each
of the file's AXES; it returns by name what it measured: numbers, or images in [0, 1]. Each point
of the grid is measured once a seed.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import decode_source
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from fl_sim import process
from fl_sim.atomic_io import DamagedFileError, write_arrays, write_sealed
from fl_sim.cells import check_grid, checked_seeds
from fl_sim.description import label
from fl_sim.engine import interrupts
from fl_sim.engine.environment import environment
from fl_sim.engine.progress import Listener
from fl_sim.errors import RequestError, require
from fl_sim.locks import held, refuse_link
from fl_sim.results import run_folder
from fl_sim.results.studies import (
    IMAGES,
    NUMBERS,
    SUMMARY,
    StudyResults,
    load_study,
    read_numbers,
)
from fl_sim.user_file import load_python
from fl_sim.workers import side_by_side

LOG = logging.getLogger("fl_sim")
Measured = Mapping[str, float | Float[Tensor, "n c h w"]]
Told = Callable[["Point", str], None]


@dataclass(frozen=True)
class Study:
    """What a file declares.

    Attributes:
        path: of the file.
        text: of the file, by which results are found again.
        question: the first line of its text.
        axes: by name, what each point is made of: a value by its label.
        seeds: its SEEDS.
        measure: what is done at every point.
    """

    path: Path
    text: str
    question: str
    axes: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    measure: Callable[..., Measured]

    @property
    def name(self) -> str:
        """Name of the folder of its results."""
        return self.path.stem


class Point(NamedTuple):
    """One point of the grid and one seed."""

    settings: tuple[tuple[str, str], ...]
    seed: int

    @property
    def words(self) -> str:
        """The point in words."""
        return ", ".join(
            [*(f"{axis} {value}" for axis, value in self.settings), f"seed {self.seed}"]
        )


def read(path: str | Path) -> Study:
    """Read a study.

    Raises:
        RequestError: for a file that is missing, or is no study.
    """
    path = Path(path)
    module = load_python(path)
    text = decode_source(path.read_bytes())
    measure = getattr(module, "measure", None)
    if not callable(measure):
        raise RequestError(f"{path} has no function measure, so it is no study")
    axes: Any = getattr(module, "AXES", {})
    try:
        check_grid(axes)
        require("seed" not in axes, "AXES: seed", "in SEEDS or --seeds, not in an axis", "seed")
        seeds = checked_seeds(getattr(module, "SEEDS", (0,)), "SEEDS")
        labelled = {name: _labelled(name, values) for name, values in axes.items()}
        taken = set(inspect.signature(measure).parameters)
    except (RequestError, ValueError) as error:
        raise RequestError(f"{path}: {error}") from None
    if taken != {"seed", *axes}:
        raise RequestError(f"{path}: measure takes seed and {sorted(axes)}; got {sorted(taken)}")
    question = ([*str(module.__doc__ or "").strip().splitlines(), path.stem])[0]
    return Study(path, text, question, labelled, seeds, measure)


def _labelled(name: str, values: Sequence[Any] | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of an axis by their labels, which tell the points apart."""
    if isinstance(values, Mapping):
        return values
    labels = [str(label(value)) for value in values]
    distinct = len(set(labels)) == len(labels)
    require(distinct, f"AXES: {name}", "values that read apart, or a name for each", labels)
    return dict(zip(labels, values, strict=True))


def points_of(study: Study, seeds: Sequence[int] = ()) -> list[Point]:
    """Return every point of the grid, once a seed; seeds of the file where none are given."""
    grid = product(*([(name, word) for word in values] for name, values in study.axes.items()))
    return [Point(settings, seed) for settings in grid for seed in seeds or study.seeds]


def run(
    path: str | Path,
    seeds: Sequence[int] = (),
    *,
    out: str | Path = "runs",
    workers: int = 1,
    resume: bool = True,
    wait: bool = False,
    told: Told = lambda point, error: None,
) -> StudyResults:
    """Measure every point of a study that is not measured yet, and return all results.

    A point that raises is recorded, and the others go on.

    Args:
        path: of the study's file.
        seeds: none: those of the file.
        out: folder of all results.
        workers: processes that measure side by side.
        resume: keep what was measured by the same file.
        wait: where another process writes into the study's folder, wait for it.
        told: called with each point that is over, and what went wrong, or nothing.

    Raises:
        RequestError: before any work, for a file that is no study.
    """
    study = read(path)
    points = points_of(study, checked_seeds(seeds, "seeds") if len(seeds) else ())
    root = Path(out) / study.name
    task = partial(_attempt, study.path, study.text, root, resume)
    errors: dict[Point, str] = {}
    with held(root, wait=wait):
        for point in points:
            own = folder_of(study, root, point)
            for link in (own.parent, own):
                refuse_link(link)
        for point, error in _outcomes(task, points, min(workers, len(points))):
            told(point, error)
            if error:
                errors[point] = error
        _summarise(study, root, points, errors)
        return load_study(root)


def _outcomes(
    task: Callable[[Point, Listener], str], points: list[Point], workers: int
) -> Iterator[tuple[Point, str]]:
    if workers > 1:
        yield from side_by_side(task, points, workers, lambda progress: None)
        return
    with interrupts.finishing_rounds():
        for point in points:
            yield point, task(point, lambda progress: None)


def _attempt(
    path: Path, text: str, root: Path, resume: bool, point: Point, listen: Listener
) -> str:
    """Measure a point; return what went wrong, or nothing."""
    if interrupts.wanted():
        return "interrupted before it began"
    process.settle()
    study = read(path)
    if study.text != text:
        return f"{path.name} was edited while it was measured"
    folder = folder_of(study, root, point)
    if resume and _is_measured(folder):
        return ""
    own = {axis: study.axes[axis][word] for axis, word in point.settings}
    started, used = perf_counter(), process_time()
    try:
        found = study.measure(seed=point.seed, **own)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    times = {"seconds": perf_counter() - started, "cpu_seconds": process_time() - used}
    _write(folder, found, times)
    return ""


def _is_measured(folder: Path) -> bool:
    """Return whether a point was measured, and its files are as they were written."""
    try:
        return read_numbers(folder) is not None
    except DamagedFileError as error:
        LOG.warning("%s; the point is measured anew", error)
        return False


def folder_of(study: Study, root: Path, point: Point) -> Path:
    """Return the folder of a point; another text of the study's file has others."""
    text = json.dumps([point.settings, study.text])
    return run_folder(root, hashlib.sha256(text.encode()).hexdigest()[:12], point.seed)


def _write(folder: Path, found: Measured, times: dict[str, float]) -> None:
    """Write what a point gave; its numbers last, since they say that it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    images = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if images:
        pixels = {n: (255 * i.clamp(0, 1)).round().byte().numpy() for n, i in images.items()}
        files[IMAGES] = write_arrays(folder / IMAGES, pixels, compressed=True)
    numbers = {name: float(value) for name, value in found.items() if name not in images}
    write_sealed(folder / NUMBERS, {"numbers": numbers, **times, "files": files})


def _summarise(study: Study, root: Path, points: list[Point], errors: dict[Point, str]) -> None:
    """Write `study.json`."""
    cells = []
    for point in points:
        folder = folder_of(study, root, point)
        about = {"settings": dict(point.settings), "seed": point.seed}
        about["folder"] = str(folder.relative_to(root))
        if point in errors:
            cells.append({**about, "error": errors[point]})
        else:
            cells.append({**about, **(read_numbers(folder) or {})})
    where = environment("study")
    content = {"study": study.name, "question": study.question, "cells": cells}
    root.mkdir(parents=True, exist_ok=True)
    write_sealed(root / SUMMARY, {**content, "environment": where})
