"""Cells: the runs that a request asks for, and the controls that they are measured against."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

from fl_sim.description import label
from fl_sim.errors import require
from fl_sim.experiment import Axes, Axis, Experiment


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


def cells_of(experiment: Experiment, axes: Axes, seeds: Iterable[int] | None) -> list[Cell]:
    """Return every combination of the axes' values, once a seed.

    Raises:
        FieldError: for an unknown field or a value out of range.
    """
    cells: list[Cell] = []
    for steps in product(*(_steps(path, values) for path, values in axes.items())):
        changed = experiment
        for step in steps:
            for path, value in step.changes.items():
                changed = changed.with_value(path, value)
        settings = {path: step.label for path, step in zip(axes, steps, strict=True)}
        wanted = seeds if seeds is not None else [experiment.seed]
        cells.extend(Cell(replace(changed, seed=seed), settings) for seed in wanted)
    return cells


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
