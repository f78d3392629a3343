"""Reads experiment files: Python files that define EXPERIMENT, or `experiment.json` of a run."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fl_sim.config.sweeps import Skip, check_axes, check_skip, validate_seeds
from fl_sim.config.user_file import load_python, locate, read_text
from fl_sim.contracts import (
    AggregationRule,
    Client,
    Countermeasure,
    DomainTransform,
    Protection,
)
from fl_sim.core import serialization, user_modules
from fl_sim.core.errors import RequestError, require, shorten
from fl_sim.core.plugins import discover
from fl_sim.data.layout import Protects
from fl_sim.data.partition import Partition
from fl_sim.experiment import Axes, Experiment
from fl_sim.samplers import Sampler

PLUGINS: tuple[tuple[str, type[Any]], ...] = (
    ("strategies", AggregationRule),
    ("clients", Client),
    ("fl_sim.protections", Protection),
    ("fl_sim.countermeasures", Countermeasure),
    ("fl_sim.data", Partition),
    ("fl_sim.data.domains", DomainTransform),
    ("fl_sim.samplers", Sampler),
)


@dataclass(frozen=True)
class ExperimentFile:
    """Contents of an experiment file.

    Attributes:
        experiment: EXPERIMENT.
        axes: AXES of a sweep; empty by default.
        seeds: SEEDS; by default the seed of the experiment.
        full: FULL, values by field path for the size that the papers use; empty by default.
        skip: SKIP, by reason the cells of the sweep that are left out; empty by default.
        question: First paragraph of the file's docstring.
    """

    experiment: Experiment
    axes: Axes
    seeds: tuple[int, ...]
    full: Mapping[str, Any] = field(default_factory=dict)
    skip: Skip = field(default_factory=dict)
    question: str = ""


def read(
    path: str | Path, overrides: Iterable[str] = (), *, full: bool = False, small: bool = False
) -> ExperimentFile:
    """Read an experiment file and apply overrides such as `layout.fraction=0.5`.

    An overridden field is no longer an axis of the sweep.

    Args:
        path: Path of the file.
        overrides: Texts `field=value`.
        full: Whether the file's FULL is applied first.
        small: Whether protections that have a small size, SEM and REM, take it before overrides.

    Raises:
        RequestError: If the file is missing, defines no experiment, or should have a FULL or a
            protection with a small size.
        FieldError: If an override names an unknown field, or a value out of range.
    """
    path = Path(path)
    content = _read_json(path) if path.suffix == ".json" else _read_python(path)
    experiment, axes, seeds = content.experiment, dict(content.axes), content.seeds
    if full and not content.full:
        raise RequestError(f"{path} names no FULL, so it has one size only")
    if full:
        experiment = experiment.with_values(content.full.items())
    if small:
        experiment, axes = _make_noise_small(path, experiment, axes)
    changes: list[tuple[str, Any]] = []
    for override in overrides:
        field, separator, text = override.partition("=")
        if not separator:
            raise RequestError(
                f"--set takes field=value, such as layout.fraction=0.5; got {override!r}"
            )
        changes.append((field, parse_value(text)))
        axes.pop(field, None)
    experiment = experiment.with_values(changes)
    if ":" in experiment.model.backbone:  # perhaps of a module beside the file
        module = experiment.model.backbone.partition(":")[0]
        user_modules.declare_imports(f"import {module}".encode(), path.resolve().parent)
    if any(field == "seed" for field, _ in changes):
        seeds = (experiment.seed,)
    return replace(content, experiment=experiment, axes=axes, seeds=seeds)


def _make_noise_small(
    path: Path, experiment: Experiment, axes: dict[str, Any]
) -> tuple[Experiment, dict[str, Any]]:
    """Return an experiment and its axes with every protection in its small size."""
    changed = experiment.with_values(
        [(name, _shrink(getattr(experiment, name))) for name in ("layout", "protection")]
    )
    shrunk: dict[str, Any] = _shrink(axes)
    if changed == experiment and shrunk == axes:
        raise RequestError(f"{path}: --small is for SEM and REM noise, and nothing here makes it")
    return changed, shrunk


def _shrink(value: Any) -> Any:
    """Return a value with every protection in it in its small size."""
    if isinstance(value, Protection):
        return value.make_small()
    if isinstance(value, Protects):
        return replace(value, protection=_shrink(value.protection))
    if isinstance(value, Mapping):
        return {name: _shrink(item) for name, item in value.items()}
    return type(value)(map(_shrink, value)) if isinstance(value, list | tuple) else value


def parse_value(text: str) -> Any:
    """Return the value of a text on the command line.

    >>> parse_value("16/255") == 16 / 255, parse_value("7.5/255") == 7.5 / 255, parse_value("none")
    (True, True, None)
    >>> parse_value("0,2,6")
    (0, 2, 6)
    """
    if re.fullmatch(r"\d{1,19}(,\d{1,19})+", text):
        return tuple(map(int, text.split(",")))
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for read_number in (int, float, _parse_fraction):
        try:
            return read_number(text)
        except (ValueError, ZeroDivisionError):
            continue
    return _find_plugin(text) or text


def _parse_fraction(text: str) -> float:
    """Return the value of a fraction, such as 8/255 or 0.5/255."""
    numerator, denominator = text.split("/")  # a ValueError for more or fewer parts
    return float(numerator) / float(denominator)


def _find_plugin(text: str) -> Any:
    """Return a plug-in with default values by class name or dotted path, or None."""
    module = text.rpartition(".")[0]
    if module.split(".")[0] == "flwr" or (module and serialization.is_known(module)):
        return serialization.make_default(serialization.find_class(text))
    for package, base in PLUGINS:
        for cls in discover(package, base):
            if cls.__name__ == text:
                return serialization.make_default(cls)
    return None


def _read_json(path: Path) -> ExperimentFile:
    text = read_text(path)
    try:
        experiment = Experiment.from_json(text)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    return ExperimentFile(experiment, {}, (experiment.seed,))


def _read_python(path: Path) -> ExperimentFile:
    module = load_python(path)
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        study = "; it is a study: fl-sim study" if hasattr(module, "measure") else ""
        came = f"; got {shorten(experiment)}" if experiment is not None else ""
        raise RequestError(f"{locate(path, 'EXPERIMENT')} names no EXPERIMENT{came}{study}")
    with prefix_with_line(path, "AXES"):
        axes: Any = getattr(module, "AXES", {})
        check_axes(axes)
    with prefix_with_line(path, "SEEDS"):
        seeds = validate_seeds(getattr(module, "SEEDS", (experiment.seed,)), "SEEDS")
    with prefix_with_line(path, "FULL"):
        full = getattr(module, "FULL", {})
        check_full(full)
        experiment.with_values(full.items())
    with prefix_with_line(path, "SKIP"):
        skip: Any = getattr(module, "SKIP", {})
        check_skip(skip)
    question = " ".join((module.__doc__ or "").strip().partition("\n\n")[0].split())
    return ExperimentFile(experiment, axes, seeds, full, skip, question)


def check_full(full: Any) -> None:
    """Raise a `FieldError` unless FULL is a mapping of field paths to values."""
    allowed = "field paths with values, such as {'data.num_samples': None}"
    named = isinstance(full, Mapping) and all(isinstance(path, str) for path in full)
    require(named, "FULL", allowed, full)
    require("seed" not in full, "FULL: seed", "in SEEDS or --seeds", "seed")


@contextmanager
def prefix_with_line(path: Path, name: str) -> Iterator[None]:
    """Prefix a `RequestError` from the block with the file and line that set a name."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{locate(path, name)}: {error}") from None
