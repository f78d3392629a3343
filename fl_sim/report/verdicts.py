"""Verdicts on numbers: at chance level, no difference, or as high as the highest."""

from collections.abc import Sequence

import numpy as np

from fl_sim.report.formats import drop_undefined, mean
from fl_sim.report.grid import Grid, Setting
from fl_sim.results.comparison import NO_DIFFERENCE, judge_differences

CHANCE = 0.5  # AUC of guessing
CHANCE_LEVEL, TIE = "chance level", "≈"
LEGEND = {
    CHANCE_LEVEL: "a 95 % interval of the mean over seeds, by their own intervals or by their "
    "spread (Student's t), includes the 0.5 of guessing.",
    NO_DIFFERENCE: "the mean over seeds cannot be told from 0, which its 95 % interval (Student's "
    "t) includes.",
    TIE: "no difference to the highest of the column, compared seed by seed in the same way. No "
    "correction is made for the number of settings.",
}


def is_chance(setting: Setting, metric: str, group: str = "all") -> bool:
    """Return whether the interval of an AUC's mean over seeds includes the chance level."""
    final = setting.final_values(metric, group)
    return includes_chance(final.values, final.lows, final.highs)


def includes_chance(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> bool:
    """Return whether an interval of the mean over seeds includes the chance level.

    There are two: by the seeds' own intervals, whose squared half widths add up to that of the
    mean times the squared number of seeds; and, for several seeds, by their spread (Student's t).
    Values without an interval are left out.

    >>> includes_chance([0.53], [0.49], [0.57])
    True
    >>> includes_chance([0.53, 0.52, 0.54, 0.53], [0.49] * 4, [0.57] * 4)
    False
    """
    table = np.array([values, lows, highs])
    value, low, high = table[:, ~np.isnan(table).any(0)]
    if not len(value):
        return False
    middle = value.mean()
    widths = value - low if middle > CHANCE else high - value
    spread = len(value) > 1 and judge_differences(value - CHANCE) == NO_DIFFERENCE
    return spread or bool(abs(middle - CHANCE) <= np.sqrt((widths**2).sum()) / len(widths))


def judge_change(values: Sequence[float]) -> str:
    """Return `no difference` if differences of several seeds do not tell their mean from 0.

    >>> judge_change([0.02, -0.01]), judge_change([0.02, 0.02]), judge_change([0.0, 0.0])
    ('no difference', '', '')
    """
    known = np.array(drop_undefined(values))
    if len(known) < 2 or not known.any():
        return ""
    return NO_DIFFERENCE if judge_differences(known) == NO_DIFFERENCE else ""


def find_ties(grid: Grid, column: str) -> list[Setting]:
    """Return the settings whose number is no different from the highest, over common seeds.

    The list is empty for a single setting, and where the highest has fewer than two seeds.
    """
    known = {s: _by_seed(s, column) for s in grid.finished}
    known = {setting: values for setting, values in known.items() if values}
    if len(known) < 2:
        return []
    best = max(known, key=lambda setting: mean(list(known[setting].values())))
    top = known[best]
    ties = [s for s, own in known.items() if s is not best and _is_tie(own, top)]
    return [best, *ties] if ties else []


def _by_seed(setting: Setting, column: str) -> dict[int, float]:
    pairs = zip(setting.finished["seed"], setting.summary_values(column), strict=True)
    return {int(seed): value for seed, value in pairs if value == value}


def _is_tie(own: dict[int, float], top: dict[int, float]) -> bool:
    shared = [seed for seed in own if seed in top]
    differences = np.array([own[seed] - top[seed] for seed in shared])
    return len(shared) > 1 and judge_differences(differences) == NO_DIFFERENCE
