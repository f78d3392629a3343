"""Expands axes and seeds into the cells of a grid."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from typing import Any, NamedTuple, NoReturn

from fl_sim.core.errors import FieldError, RequestError, UnknownFieldError, require, shorten
from fl_sim.core.serialization import LARGEST, label
from fl_sim.experiment import Axes, Experiment

MOST_SEEDS = 100_000
MOST_CAUSES = 3  # that one message names
RESERVED = {  # fields that no axis may set, since they tell runs apart whatever the settings
    "seed": "in SEEDS or --seeds, not in an axis: every cell is run once per seed",
    "name": "one for all cells: it is the folder of their results",
}
Values = Sequence[Any] | Mapping[str, Any]  # of an axis; by label where they have names
Skip = Mapping[str, Callable[..., bool]]  # by reason, a test of the cells that are left out


@dataclass(frozen=True)
class Cell:
    """One run of a grid, and the settings that tell it from the others.

    Attributes:
        experiment: The experiment that is run, with its seed.
        settings: Labels of values by axis.
        made_with: Causes of another result beside the experiment, such as injected failures.
    """

    experiment: Experiment
    settings: dict[str, Any]
    made_with: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        """Name of the run: that of the experiment, hashed with `made_with` if there is any."""
        run_id = self.experiment.run_id
        if not self.made_with:
            return run_id
        text = json.dumps([run_id, dict(self.made_with)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def key(self) -> tuple[str, int]:
        """The run's name and seed, which tell it from others."""
        return self.run_id, self.experiment.seed

    def controls(self) -> dict[str, "Cell"]:
        """Return its control runs by name, with the same `made_with`."""
        return {
            name: Cell(control, {**self.settings, "control": name}, self.made_with)
            for name, control in self.experiment.controls().items()
        }

    @property
    def label(self) -> str:
        """Settings and seed in words."""
        return describe_settings(self.settings, self.experiment.seed)


class SkippedCell(NamedTuple):
    """A cell that is not run, with its settings and the reason."""

    settings: dict[str, Any]
    seed: int
    reason: str

    @property
    def label(self) -> str:
        """Settings and seed in words."""
        return describe_settings(self.settings, self.seed)

    def describe(self) -> dict[str, Any]:
        """Return the entry of a summary."""
        return {**self._asdict(), "label": self.label}


class GridCells(NamedTuple):
    """The cells of a grid that are run, and those that are skipped."""

    cells: list[Cell]
    skipped: list[SkippedCell]


def describe_settings(settings: Mapping[str, Any], seed: int) -> str:
    """Return settings and a seed in words, with field paths cut to their last part.

    >>> describe_settings({"layout.fraction": 0.5, "method": "FedProx"}, 0)
    'fraction 0.5, method FedProx, seed 0'
    """
    words = [f"{path.split('.')[-1]} {value}" for path, value in settings.items()]
    return ", ".join([*words, f"seed {seed}"])


def label_axes(axes: Mapping[str, Values]) -> dict[str, Mapping[str, Any]]:
    """Return the values of every axis by their labels.

    Raises:
        FieldError: If two values have the same label.
    """
    labelled: dict[str, Mapping[str, Any]] = {}
    for name, values in axes.items():
        if not isinstance(values, Mapping):
            words = [str(label(value)) for value in values]
            distinct = len(set(words)) == len(words)
            allowed = "values that read apart, or a name for each"
            require(distinct, f"AXES: {name}", allowed, words)
            values = dict(zip(words, values, strict=True))
        labelled[name] = values
    return labelled


def expand_grid(labelled: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield every combination of labels, by axis; the last axis varies fastest.

    >>> list(expand_grid({"size": {"1": 1, "2": 2}, "method": {"FedProx": {}}}))
    [{'size': '1', 'method': 'FedProx'}, {'size': '2', 'method': 'FedProx'}]
    """
    for words in product(*labelled.values()):
        yield dict(zip(labelled, words, strict=True))


def expand_cells(
    experiment: Experiment,
    axes: Axes,
    seeds: Iterable[int] | None,
    source: str = "seeds",
    skip: Skip | None = None,
) -> list[Cell]:
    """Return the cells of `plan_cells` that are run."""
    return plan_cells(experiment, axes, seeds, source, skip).cells


def plan_cells(
    experiment: Experiment,
    axes: Axes,
    seeds: Iterable[int] | None,
    source: str = "seeds",
    skip: Skip | None = None,
    *,
    skip_invalid: bool = False,
) -> GridCells:
    """Return every combination of the axes' values, once per seed.

    Args:
        experiment: The experiment that the axes start from.
        axes: Values by field path, or changes by label by the name of the axis.
        seeds: Seeds; None: the experiment's own.
        source: Name of the seeds in messages.
        skip: By reason, a function that is given a cell's experiment and returns whether to skip
            it.
        skip_invalid: Whether combinations that are no experiment are skipped, in place of refusing
            all.

    Raises:
        FieldError: For an unknown field, or a value out of range.
        RequestError: If axes or `skip` are malformed, or two cells are the same experiment.
    """
    check_axes(axes)
    check_skip(skip or {})
    wanted = validate_seeds([experiment.seed] if seeds is None else seeds, source)
    labelled, cells = label_axes(axes), list[Cell]()
    skipped, invalid = list[SkippedCell](), list[tuple[SkippedCell, FieldError]]()
    earlier: dict[str, Mapping[str, Any]] = {}
    changes = _Changes(experiment, axes, labelled)
    for words in expand_grid(labelled):
        settings = _describe_values(axes, labelled, words)
        try:
            changed = changes.apply(words)
        except UnknownFieldError:
            raise
        except FieldError as error:
            invalid += [(SkippedCell(settings, seed, str(error)), error) for seed in wanted]
            continue
        seeded = [Cell(replace(changed, seed=seed), settings) for seed in wanted]
        reasons = [find_reason(skip or {}, cell.experiment) for cell in seeded]
        pairs = list(zip(seeded, reasons, strict=True))
        skipped += [SkippedCell(settings, c.experiment.seed, why) for c, why in pairs if why]
        kept = [cell for cell, reason in pairs if not reason]
        if kept:
            _refuse_duplicates(earlier, changed, settings)
        cells += kept
    refuse_overwrites(axes, {})
    if invalid and not skip_invalid:
        refuse_invalid(invalid, len(cells) + len(invalid))
    return GridCells(cells, skipped + [cell for cell, _ in invalid])


def _describe_values(
    axes: Axes, labelled: Mapping[str, Mapping[str, Any]], words: Mapping[str, str]
) -> dict[str, Any]:
    """Return the labels of a combination's values, numbers as numbers."""
    return {
        name: word if isinstance(axes[name], Mapping) else label(labelled[name][word])
        for name, word in words.items()
    }


@dataclass(eq=False)
class _Changes:
    """Changes an experiment by values of axes; combinations share those of their first axes.

    A grid of nine axes would otherwise make nine experiments per combination.
    """

    experiment: Experiment
    axes: Axes
    labelled: Mapping[str, Mapping[str, Any]]
    _made: dict[tuple[str, ...], Experiment | None] = field(default_factory=dict)

    def apply(self, words: Mapping[str, str]) -> Experiment:
        """Return the experiment with a combination of the axes' values.

        Raises:
            FieldError: If they are no experiment together, in any order.
        """
        made = self._apply_in_turn(tuple(words.items()))
        return made or self.experiment.with_values(self._list_changes(*words.items()))

    def _apply_in_turn(self, words: tuple[tuple[str, str], ...]) -> Experiment | None:
        """Return the experiment with the changes in their order; None if one is refused."""
        if not words:
            return self.experiment
        key = tuple(word for _, word in words)
        if key not in self._made:
            made = self._apply_in_turn(words[:-1])
            try:
                for path, value in self._list_changes(words[-1]):
                    made = made and made.with_value(path, value)
            except FieldError:
                made = None
            self._made[key] = made
        return self._made[key]

    def _list_changes(self, *words: tuple[str, str]) -> list[tuple[str, Any]]:
        changes: list[tuple[str, Any]] = []
        for name, word in words:
            value = self.labelled[name][word]
            changes += value.items() if isinstance(self.axes[name], Mapping) else [(name, value)]
        return changes


def find_reason(skip: Skip, *cell: Experiment, **values: Any) -> str:
    """Return the first reason for which a cell is skipped, or an empty string.

    Args:
        skip: Tests by reason.
        cell: Experiment of the cell, for a sweep.
        values: Values of the cell by axis, for a study.

    Raises:
        RequestError: If a test raises, or returns anything but True or False.
    """
    for reason, test in skip.items():
        try:
            found = test(*cell, **values)
        except Exception as error:  # of the user's function
            cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise RequestError(f"SKIP: the test of {reason!r} raised {cause}") from None
        allowed = "a function that returns True or False"
        require(isinstance(found, bool), f"SKIP: {reason!r}", allowed, found)
        if found:
            return reason
    return ""


def check_skip(skip: Any) -> None:
    """Raise a `FieldError` unless SKIP maps reasons to functions."""
    allowed = "by reason, functions that return True for cells to leave out"
    named = isinstance(skip, Mapping) and all(isinstance(why, str) and why.strip() for why in skip)
    require(named and all(map(callable, skip.values())), "SKIP", allowed, skip)


def refuse_invalid(invalid: Sequence[tuple[SkippedCell, RequestError]], total: int) -> NoReturn:
    """Refuse a grid, naming the cells that cannot be run, of how many, and the causes.

    Raises:
        RequestError: Always; the error itself if all cells have the same.
    """
    by_cause: dict[str, list[SkippedCell]] = {}
    for cell, error in invalid:
        by_cause.setdefault(str(error), []).append(cell)
    if len(invalid) == total and len(by_cause) == 1:
        raise invalid[0][1]
    causes = [
        cells[0].label + (f" and {len(cells) - 1} more" if len(cells) > 1 else "") + f": {cause}"
        for cause, cells in by_cause.items()
    ]
    more = f"; and {len(causes) - MOST_CAUSES} more causes" if len(causes) > MOST_CAUSES else ""
    raise RequestError(
        f"{len(invalid)} of {total} cells cannot be run: {'; '.join(causes[:MOST_CAUSES])}{more}. "
        "Leave them out with SKIP, or with --skip-invalid (skip_invalid=True)"
    )


def _refuse_duplicates(
    earlier: dict[str, Mapping[str, Any]], experiment: Experiment, settings: Mapping[str, Any]
) -> None:
    """Refuse an experiment that is in the grid already: its results would count twice."""
    first = earlier.setdefault(experiment.to_json(), settings)
    if first is not settings:
        words = [[f"{path} {value}" for path, value in each.items()] for each in (first, settings)]
        both = " and ".join(", ".join(each) for each in words)
        raise RequestError(f"AXES: {both} are the same experiment")


def validate_seeds(seeds: Any, source: str) -> tuple[int, ...]:
    """Return seeds as a tuple, if they are different whole numbers.

    Raises:
        FieldError: Naming `source`, the place where the seeds were given.
    """
    allowed = "a list of different whole numbers from 0 to 2^63 - 1"
    listed = isinstance(seeds, Iterable) and not isinstance(seeds, str | bytes | Mapping)
    require(listed, source, allowed, seeds)
    chosen = tuple(islice(seeds, MOST_SEEDS + 1))  # some iterables never end
    require(len(chosen) <= MOST_SEEDS, source, f"at most {MOST_SEEDS:,} seeds", shorten(seeds))
    for seed in chosen:
        fits = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed <= LARGEST
        require(fits, source, allowed, seed)
    require(0 < len(chosen) == len(set(chosen)), source, allowed, chosen)
    return chosen


def check_axes(axes: Any) -> None:
    """Raise a `RequestError` unless axes are a grid of an experiment."""
    check_grid(axes)
    for name, values in axes.items():
        for changes in values.values() if isinstance(values, Mapping) else [{name: None}]:
            named = isinstance(changes, Mapping) and all(isinstance(path, str) for path in changes)
            example = "by label, the fields that it changes, such as {'fast': {'rounds': 2}}"
            require(named, f"AXES: {name}", example, changes)
            for path in RESERVED.keys() & changes:
                require(False, f"AXES: {path}", RESERVED[path], path)


def check_grid(axes: Any) -> None:
    """Raise a `RequestError` unless each axis is a list of values, or values by label."""
    if not (isinstance(axes, Mapping) and all(isinstance(name, str) for name in axes)):
        example = "{'layout.fraction': [0.0, 0.5]}"
        raise RequestError(
            f"AXES maps field paths to lists of values, such as {example}; got {shorten(axes)}"
        )
    for name, values in axes.items():
        listed = isinstance(values, Sequence | Mapping) and not isinstance(values, str | bytes)
        require(listed, f"AXES: {name}", "a list of values, or values by label", values)
        require(len(values) > 0, f"AXES: {name}", "at least one value", values)
        labels = list(values) if isinstance(values, Mapping) else []
        words = all(isinstance(label, str) and label.strip() for label in labels)
        require(words, f"AXES: {name}", "labels that are words", labels)


def refuse_overwrites(axes: Axes, before: Mapping[str, str]) -> None:
    """Refuse an axis that overwrites an earlier setting, whose label would then be wrong.

    Args:
        axes: Axes in the order in which they are applied.
        before: Sources of earlier settings by field path, such as `{"client.momentum": "--set"}`.

    Raises:
        RequestError: Naming both settings.
    """
    before = dict(before)
    for name, values in axes.items():
        changes = values.values() if isinstance(values, Mapping) else [{name: None}]
        paths = {path for change in changes for path in change}
        for field_path, source in before.items():
            for path in paths:
                if field_path == path or field_path.startswith(f"{path}."):
                    undone = f"would undo {field_path} of {source}"
                    raise RequestError(f"AXES: {name} sets {path}, and {undone}")
        before |= dict.fromkeys(paths, name)
