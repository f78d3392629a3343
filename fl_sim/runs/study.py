"""Studies: grids of measurements of something other than a federation.

A study is a Python file with a function `measure`. It takes a seed, and by name one value of each
of the file's AXES; it returns numbers, or images in [0, 1], by name. Each point of the grid is
measured once per seed.
"""

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import decode_source
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from jaxtyping import Float
from torch import Tensor

from fl_sim.config import sweeps
from fl_sim.config.user_file import load_python
from fl_sim.core import interrupts, process
from fl_sim.core.atomic_io import DamagedFileError, write_arrays, write_sealed
from fl_sim.core.device import current_device, resolve_devices, use_device
from fl_sim.core.errors import RequestError, RunFailedError, require
from fl_sim.core.literals import Precision
from fl_sim.core.locks import lock_folder, refuse_link, remove_folder
from fl_sim.core.portable import is_portable
from fl_sim.core.precision import check_precision, current_precision, use_precision
from fl_sim.results import run_folder
from fl_sim.results.studies import IMAGES, NUMBERS, SUMMARY, StudyResults, load_study, read_numbers
from fl_sim.runs.environment import describe_environment
from fl_sim.runs.processes import run_jobs
from fl_sim.runs.progress import Listener

LOG = logging.getLogger("fl_sim")
MODE = ("device", "portable", "precision")  # in a point's file, unless they are the usual ones
Measured = Mapping[str, float | Float[Tensor, "n c h w"]]


@dataclass(frozen=True)
class Study:
    """Content of a study's file.

    Attributes:
        path: Path of the file.
        text: Text of the file; results of another text are kept apart.
        question: First line of the file's docstring.
        axes: Values by the name of their axis and by label.
        seeds: SEEDS of the file.
        measure: Function that is called at every point.
        skip: SKIP of the file: by reason, functions of the axes' values that return True for
            points to leave out.
    """

    path: Path
    text: str
    question: str
    axes: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    measure: Callable[..., Measured]
    skip: sweeps.Skip = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the folder of its results."""
        return self.path.stem


@dataclass(frozen=True)
class Point:
    """One point of the grid and one seed.

    Attributes:
        settings: Labels of values by axis.
        seed: Seed that `measure` is given.
        text: Text of the study's file; another text has other points.
    """

    settings: dict[str, str]
    seed: int
    text: str = field(repr=False)

    @property
    def key(self) -> tuple[str, int]:
        """Name of the point's folder, a hash of its settings and of the file, and the seed."""
        text = json.dumps([list(self.settings.items()), self.text])
        return hashlib.sha256(text.encode()).hexdigest()[:12], self.seed

    @property
    def label(self) -> str:
        """The settings and the seed, in words."""
        return sweeps.describe_settings(self.settings, self.seed)


def read(path: str | Path) -> Study:
    """Read a study.

    Raises:
        RequestError: For a file that is missing or is no study.
    """
    path = Path(path)
    module = load_python(path)
    text = decode_source(path.read_bytes())
    measure = getattr(module, "measure", None)
    if not callable(measure):
        raise RequestError(f"{path} has no function measure, so it is not a study")
    axes: Any = getattr(module, "AXES", {})
    skip: Any = getattr(module, "SKIP", {})
    try:
        sweeps.check_grid(axes)
        require("seed" not in axes, "AXES: seed", "in SEEDS or --seeds, not in an axis", "seed")
        seeds = sweeps.validate_seeds(getattr(module, "SEEDS", (0,)), "SEEDS")
        labelled = sweeps.label_axes(axes)
        sweeps.check_skip(skip)
        parameters = set(inspect.signature(measure).parameters)
    except (RequestError, ValueError) as error:
        raise RequestError(f"{path}: {error}") from None
    if parameters != {"seed", *axes}:
        wanted, came = sorted(axes), sorted(parameters)
        raise RequestError(f"{path}: measure takes seed and {wanted}; got {came}")
    question = ([*str(module.__doc__ or "").strip().splitlines(), path.stem])[0]
    return Study(path, text, question, labelled, seeds, measure, skip)


def expand_points(study: Study, seeds: Sequence[int] = ()) -> list[Point]:
    """Return every point of the grid, once per seed; by default the seeds are those of the file.

    Raises:
        RequestError: If SKIP leaves out every point.
    """
    points = [
        Point(settings, seed, study.text)
        for settings, reason in _find_reasons(study)
        for seed in seeds or study.seeds
        if not reason
    ]
    if not points:
        raise RequestError(f"{study.path}: SKIP leaves out every point")
    return points


def _find_reasons(study: Study) -> list[tuple[dict[str, str], str]]:
    """Return the settings of every point, and the reason for which it is skipped, if any."""
    return [
        (settings, sweeps.find_reason(study.skip, **_find_values(study, settings)))
        for settings in sweeps.expand_grid(study.axes)
    ]


def _find_values(study: Study, settings: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a point by axis."""
    return {axis: study.axes[axis][label] for axis, label in settings.items()}


def run(
    path: str | Path,
    seeds: Sequence[int] = (),
    *,
    out: str | Path = "runs",
    workers: int = 1,
    resume: bool = True,
    wait: bool = False,
    on_point_end: Callable[[Point, str], None] = lambda point, error: None,
    device: str | None = None,
    deterministic: bool = True,
    precision: Precision | None = None,
) -> StudyResults:
    """Measure every point of a study that is not measured yet, and return all results.

    A point that raises is recorded, and the others continue.

    Args:
        path: Path of the study's file.
        seeds: Seeds; if empty, those of the file.
        out: Folder of all results.
        workers: Number of parallel processes.
        resume: Keep points that were measured with the same file, in the same precision and mode,
            and on the same kind of device; others are measured again.
        wait: Wait for another process that writes into the study's folder.
        on_point_end: Called with each point that has ended, and its error or an empty string.
        device: Device that `measure` computes on; None for that of the surrounding `use_device`.
        deterministic: Use deterministic algorithms on an accelerator.
        precision: Precision of the networks; None for that of the surrounding `use_precision`.

    Raises:
        RequestError: Before any work, for a device that is missing, or for a file that is no study.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once the current points are measured.
    """
    precision = precision or current_precision()
    devices = resolve_devices(device := device or str(current_device()))
    check_precision(precision, devices[0])
    study = read(path)
    points = expand_points(study, sweeps.validate_seeds(seeds, "seeds") if len(seeds) else ())
    root = Path(out) / study.name
    with lock_folder(root, wait=wait):
        for point in points:
            folder = run_folder(root, *point.key)
            for link in (folder.parent, folder):
                refuse_link(link)
        if not resume:  # else points that are not measured would keep their earlier numbers
            (root / SUMMARY).unlink(missing_ok=True)
            for point in points:
                remove_folder(run_folder(root, *point.key))
        interrupts.set_flag(None)  # an earlier study may have been interrupted
        task = partial(_measure, study.path, root, resume, device, deterministic, precision)
        count = max(workers, len(devices))
        failed = run_jobs(task, points, count, devices=devices, on_job_end=on_point_end)
        with use_device(device), use_precision(precision):
            _write_summary(study, root, points, {point.key: error for point, error in failed})
        interrupts.raise_after_interrupt()
        return load_study(root)


def _measure(
    path: Path,
    root: Path,
    resume: bool,
    device: str,
    deterministic: bool,
    precision: Precision,
    point: Point,
    listen: Listener,
) -> None:
    """Measure a point, unless it was measured before."""
    process.configure_process()
    study, folder = read(path), run_folder(root, *point.key)
    if study.text != point.text:
        raise RunFailedError(f"{path.name} was edited while it was measured")
    mode = _describe_mode(device, precision)
    if resume and _is_measured(folder, mode):
        return
    values = _find_values(study, point.settings)
    started, used = perf_counter(), process_time()
    with use_device(device, deterministic=deterministic), use_precision(precision):
        results = study.measure(seed=point.seed, **values)
    times = {"seconds": perf_counter() - started, "cpu_seconds": process_time() - used}
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    images = {name: value.cpu() for name, value in results.items() if isinstance(value, Tensor)}
    if images:
        pixels = {n: (255 * i.clamp(0, 1)).round().byte().numpy() for n, i in images.items()}
        files[IMAGES] = write_arrays(folder / IMAGES, pixels, compressed=True)
    numbers = {name: float(value) for name, value in results.items() if name not in images}
    # Last, since the numbers mark the point as measured.
    write_sealed(folder / NUMBERS, {"numbers": numbers, **times, "files": files, **mode})


def _describe_mode(device: str, precision: Precision) -> dict[str, Any]:
    """Return the kind of device, the mode and the precision, on which the last bits depend.

    What is usual is left out.
    """
    usual = ("cpu", False, "float32")
    chosen = (resolve_devices(device)[0].type, is_portable(), precision)
    named = zip(MODE, chosen, usual, strict=True)
    return {name: value for name, value, default in named if value != default}


def _is_measured(folder: Path, mode: Mapping[str, Any]) -> bool:
    """Return whether a point was measured in this mode, and its files are undamaged."""
    try:
        measured = read_numbers(folder)
        return measured is not None and {n: measured[n] for n in MODE if n in measured} == mode
    except DamagedFileError as error:
        LOG.warning("%s; the point is measured again", error)
        return False


def _write_summary(
    study: Study, root: Path, points: list[Point], errors: dict[tuple[str, int], str]
) -> None:
    """Write `study.json`."""
    cells = []
    for point in points:
        folder = run_folder(root, *point.key)
        place = {"seed": point.seed, "folder": str(folder.relative_to(root))}
        content = {"error": errors[point.key]} if point.key in errors else read_numbers(folder)
        cells.append({"settings": point.settings, **place, **(content or {})})
    content = {"study": study.name, "question": study.question, "cells": cells}
    left_out = [
        sweeps.SkippedCell(settings, seed, reason)
        for settings, reason in _find_reasons(study)
        for seed in dict.fromkeys(point.seed for point in points)
        if reason
    ]
    if left_out:
        content["skipped"] = [cell.describe() for cell in left_out]
    write_sealed(root / SUMMARY, {**content, "environment": describe_environment("study")})
