"""Experiment files: a Python file that names one EXPERIMENT, or the JSON beside results."""

import importlib.util
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from json import JSONDecodeError
from pathlib import Path
from types import ModuleType
from typing import Any

from fl_sim import description
from fl_sim.contracts import AggregationRule, Client, Countermeasure, Protection
from fl_sim.data.partition import Partition
from fl_sim.errors import RequestError
from fl_sim.experiment import Axes, Experiment
from fl_sim.plugins import discover

PLUGINS: tuple[tuple[str, type[Any]], ...] = (
    ("strategies", AggregationRule),
    ("clients", Client),
    ("fl_sim.protections", Protection),
    ("fl_sim.countermeasures", Countermeasure),
    ("fl_sim.data", Partition),
)


@dataclass(frozen=True)
class ExperimentFile:
    """What a file declares.

    Attributes:
        experiment: its EXPERIMENT.
        axes: its AXES, for a sweep; empty where it has none.
        seeds: its SEEDS; the experiment's own where it has none.
        full: its FULL, the fields that give it the size of the papers; empty where it has none.
    """

    experiment: Experiment
    axes: Axes
    seeds: tuple[int, ...]
    full: Mapping[str, Any] = field(default_factory=dict)


def read(path: str | Path, overrides: Iterable[str] = (), *, full: bool = False) -> ExperimentFile:
    """Read an experiment file and apply overrides such as `layout.fraction=0.5`.

    An overridden field is no longer an axis of the sweep.

    Args:
        path: of the file.
        overrides: `field=value`.
        full: first apply the file's FULL, the size of the papers.

    Raises:
        RequestError: for a file that is missing, declares no experiment, or has no FULL.
        FieldError: for an override of an unknown field, or out of range.
    """
    path = Path(path)
    if not path.exists():
        raise RequestError(f"there is no experiment file {path}")
    content = _read_json(path) if path.suffix == ".json" else _read_python(path)
    experiment, axes = content.experiment, dict(content.axes)
    if full and not content.full:
        raise RequestError(f"{path} names no FULL, so it has one size only")
    for name, value in content.full.items() if full else ():
        experiment = experiment.with_value(name, value)
    for override in overrides:
        field, separator, text = override.partition("=")
        if not separator:
            raise RequestError(
                f"--set takes field=value, such as layout.fraction=0.5; got {override!r}"
            )
        experiment = experiment.with_value(field, parse_value(text))
        axes.pop(field, None)
    return ExperimentFile(experiment, axes, content.seeds, content.full)


def check_overrides(axes: Axes, overrides: Iterable[str]) -> None:
    """Refuse a sweep whose axes would undo what was overridden.

    Raises:
        RequestError: for an override of a part of what an axis sets.
    """
    changed = [override.partition("=")[0] for override in overrides]
    for name, values in axes.items():
        steps = values.values() if isinstance(values, Mapping) else [{name: None}]
        for path in {path for changes in steps for path in changes}:
            for own in changed:
                if own == path or own.startswith(f"{path}."):
                    raise RequestError(
                        f"--set {own}: the axis {name!r} sets {path}, and would undo it"
                    )


def parse_value(text: str) -> Any:
    """Return the value that a command line means.

    >>> parse_value("16/255") == 16 / 255, parse_value("0.5"), parse_value("none")
    (True, 0.5, None)
    >>> parse_value("0,2,6")
    (0, 2, 6)
    """
    if re.fullmatch(r"\d+(,\d+)+", text):
        return tuple(map(int, text.split(",")))
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for read_number in (int, float, lambda written: float(Fraction(written))):
        try:
            return read_number(text)
        except (ValueError, ZeroDivisionError):
            continue
    return _plugin(text) or text


def _plugin(text: str) -> Any:
    """Return a plug-in with default values, by its class name or dotted path."""
    if "." in text and text.split(".")[0] in (*description.PACKAGES, "flwr"):
        return description.with_defaults(description.find_class(text))
    for package, base in PLUGINS:
        for cls in discover(package, base):
            if cls.__name__ == text:
                return description.with_defaults(cls)
    return None


def _read_json(path: Path) -> ExperimentFile:
    try:
        experiment = Experiment.from_json(path.read_text())
    except JSONDecodeError as error:
        raise RequestError(f"{path} is not JSON: {error}") from None
    return ExperimentFile(experiment, {}, (experiment.seed,))


def _read_python(path: Path) -> ExperimentFile:
    module = load_python(path)
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        study = "; it is a study: fl-sim study" if hasattr(module, "measure") else ""
        raise RequestError(f"{path} names no EXPERIMENT{study}")
    axes: Any = getattr(module, "AXES", {})
    if not isinstance(axes, Mapping):
        raise RequestError(f"{path}: AXES maps field paths to lists of values")
    seeds = tuple(getattr(module, "SEEDS", (experiment.seed,)))
    return ExperimentFile(experiment, axes, seeds, getattr(module, "FULL", {}))


def load_python(path: Path) -> ModuleType:
    """Run a Python file, and return what it defines; experiments are code, as Makefiles are.

    Raises:
        RequestError: for a file that is missing, or is not Python.
    """
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    if not path.exists() or spec is None or spec.loader is None:
        raise RequestError(f"{path} is no Python file, nor JSON")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path.cwd()))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise RequestError(f"{path}: {error}") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    return module
