"""Cells: the runs that a request asks for, and the controls that they are measured against."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import Any, NamedTuple

from fl_sim.description import LARGEST, label
from fl_sim.errors import RequestError, require, shown
from fl_sim.experiment import Axes, Axis, Experiment

MOST_SEEDS = 100_000


@dataclass(frozen=True)
class Cell:
    """One run that was asked for, and the settings that tell it from the others.

    Attributes:
        experiment: what is run.
        settings: values by field path, in words.
        made_with: what changes the result beside the experiment, such as injected failures.
    """

    experiment: Experiment
    settings: dict[str, Any]
    made_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Name of the run: the experiment's own, or a hash of it and of `made_with`."""
        own = self.experiment.run_id
        if not self.made_with:
            return own
        text = json.dumps([own, dict(self.made_with)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def key(self) -> tuple[str, int]:
        """What tells its run from others: the run's name, and the seed."""
        return self.run_id, self.experiment.seed

    def controls(self) -> dict[str, "Cell"]:
        """Return what its protection is measured against, by name, made with the same."""
        return {
            name: Cell(control, {**self.settings, "control": name}, self.made_with)
            for name, control in self.experiment.controls().items()
        }

    @property
    def label(self) -> str:
        """The settings in words."""
        words = [f"{path.split('.')[-1]} {value}" for path, value in self.settings.items()]
        return ", ".join([*words, f"seed {self.experiment.seed}"])


def cells_of(
    experiment: Experiment, axes: Axes, seeds: Iterable[int] | None, source: str = "seeds"
) -> list[Cell]:
    """Return every combination of the axes' values, once a seed.

    Args:
        experiment: what the axes start from.
        axes: values by field path, or changes by label by the name of the axis.
        seeds: None: the experiment's own.
        source: where the seeds were named, for messages.

    Raises:
        FieldError: for an unknown field or a value out of range.
        RequestError: for axes that are none, and for two cells that are the same.
    """
    check_axes(axes)
    wanted = checked_seeds([experiment.seed] if seeds is None else seeds, source)
    cells: list[Cell] = []
    seen: dict[str, Mapping[str, Any]] = {}
    for steps in product(*(_steps(path, values) for path, values in axes.items())):
        changed = experiment
        for step in steps:
            for path, value in step.changes.items():
                changed = changed.with_value(path, value)
        settings = {path: step.label for path, step in zip(axes, steps, strict=True)}
        _refuse_twins(seen, changed, settings)
        cells.extend(Cell(replace(changed, seed=seed), settings) for seed in wanted)
    _refuse_undone(axes)
    return cells


def _refuse_twins(
    seen: dict[str, Mapping[str, Any]], experiment: Experiment, settings: Mapping[str, Any]
) -> None:
    """Refuse a cell that was there already under other settings: it would count twice."""
    first = seen.setdefault(experiment.to_json(), settings)
    if first is not settings:
        raise RequestError(f"AXES: {_words(first)} and {_words(settings)} are the same experiment")


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path} {value}" for path, value in settings.items())


def checked_seeds(seeds: Any, source: str) -> tuple[int, ...]:
    """Return seeds, once it is clear that they are some, and each another one.

    Raises:
        FieldError: naming `source`, where they were given.
    """
    allowed = "a list of different whole numbers from 0 to 2^63 - 1"
    listed = isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes | Mapping)
    require(listed, source, allowed, seeds)
    found = tuple(islice(seeds, MOST_SEEDS + 1))  # some iterables never end
    require(len(found) <= MOST_SEEDS, source, f"at most {MOST_SEEDS:,} seeds", shown(seeds))
    for seed in found:
        fits = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= LARGEST
        require(fits, source, allowed, seed)
    require(0 < len(found) == len(set(found)), source, allowed, found)
    return found


def check_axes(axes: Any) -> None:
    """Raise a `RequestError` for what is no grid of an experiment."""
    check_grid(axes)
    for name, values in axes.items():
        for changes in values.values() if isinstance(values, Mapping) else [{name: None}]:
            named = isinstance(changes, Mapping) and all(isinstance(path, str) for path in changes)
            example = "by label, the fields that it changes, such as {'fast': {'rounds': 2}}"
            require(named, f"AXES: {name}", example, changes)
            for path in changes:
                _check_path(path)


def check_grid(axes: Any) -> None:
    """Raise a `RequestError` for what does not give lists of values, or values by label."""
    if not (isinstance(axes, Mapping) and all(isinstance(name, str) for name in axes)):
        example = "{'layout.fraction': [0.0, 0.5]}"
        raise RequestError(
            f"AXES maps field paths to lists of values, such as {example}; got {shown(axes)}"
        )
    for name, values in axes.items():
        listed = isinstance(values, Sequence | Mapping) and not isinstance(values, str | bytes)
        require(listed, f"AXES: {name}", "a list of values, or values by label", values)
        require(len(values) > 0, f"AXES: {name}", "at least one value", values)
        labels = list(values) if isinstance(values, Mapping) else []
        words = all(isinstance(label, str) and label.strip() for label in labels)
        require(words, f"AXES: {name}", "labels that are words", labels)


def _refuse_undone(axes: Axes) -> None:
    """Refuse an axis that sets again what one before it has set: that one's settings would lie."""
    before: dict[str, str] = {}  # which axis sets a path
    for name, values in axes.items():
        steps = values.values() if isinstance(values, Mapping) else [{name: None}]
        paths = {path for changes in steps for path in changes}
        for own, first in before.items():
            for path in paths:
                if own == path or own.startswith(f"{path}."):
                    raise RequestError(f"AXES: {name} sets {path}, and would undo {own} of {first}")
        before |= dict.fromkeys(paths, name)


def _check_path(path: str) -> None:
    """Refuse what tells runs apart by itself, whatever the settings."""
    words = "in SEEDS or --seeds, not in an axis: every cell is run once a seed"
    require(path != "seed", "AXES: seed", words, path)
    words = "one for all cells: it is the folder of their results"
    require(path != "name", "AXES: name", words, path)


class Step(NamedTuple):
    """One value of an axis: its label, and the fields that it sets."""

    label: Any
    changes: Mapping[str, Any]


def _steps(path: str, values: Axis) -> list[Step]:
    """Return the values of an axis: of one field, or by name, of several that change together.

    Raises:
        FieldError: for values that read alike, whose results nobody could tell apart.
    """
    if isinstance(values, Mapping):
        return [Step(name, changes) for name, changes in values.items()]
    steps = [Step(label(value), {path: value}) for value in values]
    counts = Counter(str(step.label) for step in steps)
    for words, count in counts.items():
        require(count == 1, path, "values that read apart, or a name for each", words)
    return steps


def controls_of(cells: list[Cell]) -> Iterator[Cell]:
    """Yield the controls of all cells; one may fail, where a rule needs more clients than
    hold clean data, and then what it would show stays unknown.
    """
    for cell in cells:
        yield from cell.controls().values()
