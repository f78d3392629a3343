"""Combinations of settings that a grid left out, with the reasons."""

from typing import NamedTuple

import pandas as pd

from fl_sim.report.formats import format_value
from fl_sim.results.summaries import SETTINGS as PREFIX

MAX_NAMED = 3  # combinations in a line


class SkippedSetting(NamedTuple):
    """A combination that was not run: its values as text by axis, its seeds, and the reason."""

    values: dict[str, str]
    seeds: list[int]
    reason: str

    def describe(self, seeds: list[int]) -> str:
        """Return the values in words, with the seeds if these are not all seeds of the grid."""
        words = [
            f"{axis.split('.')[-1].replace('_', ' ')} {value}"
            for axis, value in self.values.items()
        ]
        if set(self.seeds) != set(seeds):
            words.append(f"seed {', '.join(map(str, self.seeds))}")
        return ", ".join(words)


def list_skipped(skipped: pd.DataFrame, seeds: list[int]) -> list[str]:
    """Return one line per reason, after the first combinations that have it.

    Args:
        skipped: Cells that a grid left out, one row each.
        seeds: All seeds of the grid.
    """
    by_reason: dict[str, list[str]] = {}
    for setting in group_skipped(skipped):
        by_reason.setdefault(setting.reason, []).append(setting.describe(seeds))
    lines = []
    for reason, labels in by_reason.items():
        more = f"; and {len(labels) - MAX_NAMED} more" if len(labels) > MAX_NAMED else ""
        lines.append(f"{'; '.join(labels[:MAX_NAMED])}{more} ({reason})")
    return lines


def group_skipped(skipped: pd.DataFrame) -> list[SkippedSetting]:
    """Return one entry per combination and reason, in the order of the grid."""
    columns = [name for name in skipped.columns if str(name).startswith(PREFIX)]
    groups: dict[tuple[str, ...], list[int]] = {}
    if skipped.empty:
        return []
    words = [[format_value(value, str(name)) for value in skipped[name]] for name in columns]
    for *key, seed in zip(*words, map(str, skipped["reason"]), skipped["seed"], strict=True):
        groups.setdefault(tuple(key), []).append(int(seed))
    axes = [str(name).removeprefix(PREFIX) for name in columns]
    return [
        SkippedSetting(dict(zip(axes, words, strict=True)), seeds, reason)
        for (*words, reason), seeds in groups.items()
    ]
