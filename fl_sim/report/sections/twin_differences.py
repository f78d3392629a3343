"""Heat maps of what a foundation model changes against its twin with a random start."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from fl_sim.report.components import Drawing, Section
from fl_sim.report.formats import UNDEFINED, format_number
from fl_sim.report.grid import Grid, Setting, shorten_path
from fl_sim.report.heat_map import label_columns
from fl_sim.report.panels import create_panels
from fl_sim.report.quantities import describe_quantity
from fl_sim.report.skipped import SkippedSetting, group_skipped
from fl_sim.report.style import COLOURS, INK, STYLE, export_figure
from fl_sim.report.twins import (
    Difference,
    Twins,
    describe_model,
    find_twins,
    list_without_twin,
    measure_difference,
)
from fl_sim.results.quantities import RunNumbers, find_direction

QUANTITIES = ("accuracy", "fairness_worst_client", "mia_margin_auc", "attack_success")
MAX_VALUES = 12  # of an axis; the squares of more are too small to read
MAX_ROWS = 16
MAX_REASONS = 8
MAX_UPRIGHT = 3  # columns whose labels are not turned
PALENESS = 1.5  # of the largest difference, so that black print can be read on it
BLUE_IS_BETTER = LinearSegmentedColormap.from_list("better", [COLOURS[1], "white", COLOURS[0]])


class DifferenceMap(NamedTuple):
    """Differences by model and by the values of another axis; None where there are none."""

    models: list[str]
    columns: list[str]
    squares: dict[tuple[str, str], Difference]


def build_twin_differences(grid: Grid) -> Section | None:
    """Return the heat maps, or None if there are fewer than two squares to compare."""
    pairs = find_twins(grid)
    axis = choose_column_axis(grid)
    models = list(dict.fromkeys(pair.model for pair in pairs))
    if not pairs or len(models) * len(grid.axes[axis] if axis else [""]) < 2:
        return None
    paragraphs = [
        "Difference between a foundation model and its twin, which starts at random and shares "
        "all other settings and the seed. " + _describe_twins(pairs),
        *_explain_blanks(grid, pairs),
    ]
    drawing = draw_twin_differences(grid, pairs, axis)
    return Section("twins", "Difference to the random start", tuple(paragraphs), (drawing,))


def choose_column_axis(grid: Grid) -> str | None:
    """Return the axis with the most values beside those of the model, or None."""
    others = [
        axis
        for axis, values in grid.axes.items()
        if not axis.startswith("model") and len(values) <= MAX_VALUES
    ]
    return max(others, key=lambda axis: len(grid.axes[axis]), default=None)


def build_map(
    numbers: RunNumbers, name: str, pairs: Sequence[Twins], axis: str | None
) -> DifferenceMap:
    """Return the differences of a quantity, averaged over all other settings.

    Args:
        numbers: Numbers of the experiment.
        name: Full name of the quantity.
        pairs: Settings and their twins.
        axis: Axis of the columns; None for a single column.
    """
    squares: dict[tuple[str, str], list[Twins]] = {}
    for pair in pairs:
        column = pair.setting.values[axis] if axis else ""
        squares.setdefault((pair.model, column), []).append(pair)
    found = {key: measure_difference(numbers, name, own) for key, own in squares.items()}
    return DifferenceMap(
        models=list(dict.fromkeys(model for model, _ in squares))[:MAX_ROWS],
        columns=list(dict.fromkeys(column for _, column in squares)),
        squares={key: value for key, value in found.items() if value is not None},
    )


@rc_context(STYLE)
def draw_twin_differences(grid: Grid, pairs: Sequence[Twins], axis: str | None) -> Drawing:
    """Draw a heat map for each quantity that was measured."""
    numbers = grid.numbers
    maps = {name: build_map(numbers, name, pairs, axis) for name in QUANTITIES}
    maps = {name: each for name, each in maps.items() if each.squares}
    first = next(iter(maps.values()))
    columns = 2 if len(first.columns) > 1 else len(maps)
    height = 1.15 + 0.34 * len(first.models)
    figure, panels = create_panels([""] * len(maps), min(columns, len(maps)), height, sharey=True)
    for (name, each), axes in zip(maps.items(), panels, strict=True):
        axes.set_title(f"{describe_quantity(name).heading}\n({find_direction(name)} is better)")
        _draw_map(axes, name, each)
        if len(each.columns) > MAX_UPRIGHT:
            label_columns(axes, each.columns)
        else:
            axes.set_xticks(range(len(each.columns)), each.columns)
        axes.set_yticks(range(len(each.models)), each.models)
        if axis:
            axes.set_xlabel(shorten_path(axis))
    caption = (
        "Foundation model minus twin, mean over all other settings and seeds. Blue is better, "
        "orange worse. In brackets: the 95 % interval over seeds includes 0, or there is one seed. "
        "-: no twin, or not measured."
    )
    return export_figure("twin_differences", figure, caption)


def _draw_map(axes: Axes, name: str, each: DifferenceMap) -> None:
    """Draw the squares of one quantity, blue where the foundation model is better."""
    sign = 1.0 if find_direction(name) == "higher" else -1.0
    values: Float[np.ndarray, "rows columns"] = np.full(
        (len(each.models), len(each.columns)), np.nan
    )
    for row, model in enumerate(each.models):
        for column, word in enumerate(each.columns):
            difference = each.squares.get((model, word))
            if difference:
                values[row, column] = sign * difference.mean
    largest = max(float(np.nanmax(np.abs(values))), 1e-12)
    bound = PALENESS * largest
    axes.imshow(values, cmap=BLUE_IS_BETTER, vmin=-bound, vmax=bound, aspect="auto")
    for row, model in enumerate(each.models):
        for column, word in enumerate(each.columns):
            text = _format_square(name, each.squares.get((model, word)))
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=INK)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _format_square(name: str, difference: Difference | None) -> str:
    """Return the difference with its sign, in brackets where its interval includes 0."""
    if difference is None:
        return UNDEFINED
    text = format_number(difference.mean, describe_quantity(name).form._replace(signed=True))
    low, high = difference.interval()
    return text if low > 0 or high < 0 else f"({text})"


def _describe_twins(pairs: Sequence[Twins]) -> str:
    """Return the twin of each model, and the further fields in which they differ."""
    twins = {pair.model: pair for pair in reversed(pairs)}
    sentences = []
    for model, pair in reversed(twins.items()):
        words = f"The twin of {model} is {pair.twin_model}"
        if pair.differing:
            words += f", which differs in {' and '.join(pair.differing)} too"
        sentences.append(f"{words}.")
    return " ".join(sentences)


def _explain_blanks(grid: Grid, pairs: Sequence[Twins]) -> list[str]:
    """Return a sentence for each setting without a twin, with the reason if it was skipped."""
    lines = []
    skipped = group_skipped(grid.results.skipped)
    for setting in list_without_twin(grid, pairs):
        reason = _find_skipped_twin(skipped, setting)
        reason = reason or "no run of a random start shares its settings"
        lines.append(f"No twin of {setting.label or describe_model(setting)}: {reason}.")
    more = len(lines) - MAX_REASONS
    return lines[:MAX_REASONS] + ([f"{more} more settings have no twin."] if more > 0 else [])


def _find_skipped_twin(all_skipped: Sequence[SkippedSetting], setting: Setting) -> str:
    """Return the reason for which a random start in the same setting was skipped, if it was."""
    own = {a: w for a, w in setting.values.items() if not a.startswith("model")}
    for skipped in all_skipped:
        words = json.dumps([w for a, w in skipped.values.items() if a.startswith("model")])
        if own.items() <= skipped.values.items() and "random" in words:
            return f"skipped, {skipped.reason}"
    return ""
