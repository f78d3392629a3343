"""Settings with a foundation model, each beside its twin with a random start."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from fl_sim.report.grid import Grid, Setting, shorten_path
from fl_sim.results.pareto import CONFIDENCE, compute_interval
from fl_sim.results.quantities import RunNumbers

RANDOM = "random"
START = ("init", "planted", "checkpoint")  # fields of a model that make up its start
NAMED = ("backbone", "init", "tune")  # fields that its description always has


class Twins(NamedTuple):
    """A setting with a foundation model and its twin.

    Attributes:
        setting: The setting, whose model does not start at random.
        twin: The setting with a random start that shares everything but the model.
        differing: Fields of the model, beside those of its start, in which the two differ.
    """

    setting: Setting
    twin: Setting
    differing: tuple[str, ...]

    @property
    def model(self) -> str:
        """The model of the setting in words."""
        return describe_model(self.setting)

    @property
    def twin_model(self) -> str:
        """The model of the twin in words."""
        return describe_model(self.twin)


class Difference(NamedTuple):
    """A quantity of settings and of their twins, paired by seed and by everything but the model.

    Attributes:
        own: Mean over pairs and seeds with the foundation model.
        other: Mean over pairs and seeds of the twins.
        values: Differences, own minus other, one per seed: means over the pairs.
        num_pairs: Number of pairs that have the quantity with all of these seeds.
    """

    own: float
    other: float
    values: Float[np.ndarray, " seeds"]
    num_pairs: int

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(self.values.mean())

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Return Student's confidence interval over seeds; NaN for fewer than two."""
        return compute_interval(self.values, confidence)


def find_twins(grid: Grid, *, other_backbone: bool = False) -> list[Twins]:
    """Return the settings with a foundation model that have a twin with a random start.

    The twin shares all but the model: data, partition, client, rule, attack and so on. Of several,
    the one whose model differs in the fewest fields is taken, the first in the order of the sweep.
    Where the two differ in `init` alone, the difference is due to the start.

    Args:
        grid: The grid.
        other_backbone: Whether to take twins of another backbone only, such as a CNN that is
            trained as a whole.
    """
    by_rest: dict[str, list[Setting]] = {}
    for setting in grid.finished:
        if _get_init(setting) == RANDOM:
            by_rest.setdefault(_describe_rest(setting), []).append(setting)
    pairs = []
    for setting in grid.finished:
        candidates = [
            other
            for other in by_rest.get(_describe_rest(setting), [])
            if not (other_backbone and _shares_backbone(setting, other))
        ]
        if _get_init(setting) in (RANDOM, "") or not candidates:
            continue
        twin = min(candidates, key=lambda other: len(_list_differing(setting, other)))
        pairs.append(Twins(setting, twin, _list_differing(setting, twin)))
    return pairs


def list_without_twin(grid: Grid, pairs: Sequence[Twins]) -> list[Setting]:
    """Return the finished settings with a foundation model that have no twin."""
    paired = {id(pair.setting) for pair in pairs}
    return [s for s in grid.finished if _get_init(s) not in (RANDOM, "") and id(s) not in paired]


def group_by_model(pairs: Sequence[Twins]) -> dict[tuple[str, str], list[Twins]]:
    """Return the pairs by the models of the setting and of the twin, in words."""
    groups: dict[tuple[str, str], list[Twins]] = {}
    for pair in pairs:
        groups.setdefault((pair.model, pair.twin_model), []).append(pair)
    return groups


def measure_difference(numbers: RunNumbers, name: str, pairs: Sequence[Twins]) -> Difference | None:
    """Return a quantity of some pairs, or None if no pair has it with a common seed."""
    by_pair = [
        (get_values(numbers, name, pair.setting), get_values(numbers, name, pair.twin))
        for pair in pairs
    ]
    return pair_by_seed(by_pair)


def pair_by_seed(by_pair: Sequence[tuple[dict[int, float], dict[int, float]]]) -> Difference | None:
    """Return the differences of pairs of values by seed, over the seeds that all pairs share.

    Pairs without a common seed are left out.
    """
    both = [(own, other) for own, other in by_pair if own.keys() & other.keys()]
    if not both:
        return None
    seeds = sorted(set.intersection(*(own.keys() & other.keys() for own, other in both)))
    if not seeds:
        return None
    own, other = (
        np.array([[pair[side][seed] for seed in seeds] for pair in both]) for side in (0, 1)
    )
    return Difference(float(own.mean()), float(other.mean()), (own - other).mean(0), len(both))


def get_values(numbers: RunNumbers, name: str, setting: Setting) -> dict[int, float]:
    """Return a quantity of a setting by seed, where it is defined."""
    if name not in numbers.names:
        return {}
    found = numbers.values(name).loc[setting.cells.index]
    pairs = zip(setting.cells["seed"], found, strict=True)
    return {int(seed): float(value) for seed, value in pairs if value == value}


def describe_model(setting: Setting) -> str:
    """Return backbone, start and trained part of a setting's model, and further varied fields."""
    model = setting.experiment.get("model", {})
    words = [str(model[name]) for name in NAMED if name in model]
    words += setting.values.get("model", "").split(", ")[len(NAMED) :]
    for axis, word in setting.values.items():
        if axis.startswith("model.") and axis.removeprefix("model.") not in NAMED:
            words.append(f"{shorten_path(axis)} {word}")
    return ", ".join(words)


def _get_init(setting: Setting) -> str:
    return str(setting.experiment.get("model", {}).get("init", ""))


def _shares_backbone(setting: Setting, other: Setting) -> bool:
    own, its = (each.experiment["model"].get("backbone") for each in (setting, other))
    return bool(own == its)


def _describe_rest(setting: Setting) -> str:
    """Return everything but the model and the seed, as text that is equal for equal settings."""
    rest = {key: part for key, part in setting.experiment.items() if key not in ("model", "seed")}
    return json.dumps(rest, sort_keys=True)


def _list_differing(setting: Setting, other: Setting) -> tuple[str, ...]:
    """Return the fields of the model in which two settings differ, beside those of the start."""
    models: list[dict[str, Any]] = [s.experiment.get("model", {}) for s in (setting, other)]
    names = dict.fromkeys((*models[0], *models[1]))
    return tuple(
        name for name in names if name not in START and models[0].get(name) != models[1].get(name)
    )
