"""Trade-offs between quantities: points, Pareto fronts beyond the spread, and their figure."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from fl_sim.core.errors import RequestError, suggest
from fl_sim.report.components import Drawing
from fl_sim.report.formats import format_dataset, format_number
from fl_sim.report.grid import Grid, Setting, build_grid, list_distinct, shorten_path
from fl_sim.report.panels import create_panels
from fl_sim.report.quantities import describe_quantity
from fl_sim.report.style import COLOURS, GREY, INK, MARKERS, STYLE, export_figure
from fl_sim.results.pareto import (
    CONFIDENCE,
    compute_interval,
    find_dominated_in_pairs,
    find_front,
)
from fl_sim.results.quantities import Direction, RunNumbers

FRONT, OPEN, DOMINATED = "front", "within spread", "dominated"
MEANINGS = (
    f"{FRONT}: no other setting has means that are at least as good in both and better in one. "
    f"{OPEN}: another has, but the difference does not exceed the spread over seeds. "
    f"{DOMINATED}: another is better beyond the spread."
)
LOG_SCALE_RATIO = 30  # of the largest to the smallest value, from which an axis is logarithmic
MANY_DECADES = 300  # ratio from which only powers of ten are labelled
MAX_GROUPS = len(COLOURS)
# Parts of an experiment that whoever picks a model or a rule cannot choose.
CONDITIONS = ("dataset", "data", "partition", "layout", "domains", "adversary", "evaluation")
EVALUATION = ("corruptions", "adversarial")  # fields of `evaluation` that change what is measured
MAX_KEY = 14  # points that the key of a figure names


class Point(NamedTuple):
    """A setting of an experiment, and its quantities by full name and by seed.

    Only points with equal conditions are compared: those of the data, its partition, the protected
    share, the domains, the attack and the evaluation, which whoever picks a model or a rule cannot
    choose.
    """

    experiment: str
    label: str
    settings: dict[str, str]
    condition: str
    values: dict[str, dict[int, float]]
    reasons: dict[str, str]  # by quantity without any value


@dataclass(frozen=True, eq=False)
class Comparison:
    """Points that are compared in some quantities, over the seeds that all of them share.

    Attributes:
        names: Full names of the quantities.
        places: Positions of the compared points in the list of all points.
        left_out: Reasons by position of the points that lack a quantity.
        seeds: Seeds that all points share; empty if they share fewer than two. Each pair is then
            compared over the seeds that both have, and by means if it shares fewer than two.
        unpaired: Number of pairs that are compared by means.
        values: Values of the compared points over the shared seeds, or else over all seeds, with
            NaN where a point lacks one.
        dominated: Whether point i is dominated by point j, beyond the spread.
        on_front: Whether no other point dominates a point in the means.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    left_out: dict[int, str]
    seeds: tuple[int, ...]
    unpaired: int
    values: Float[np.ndarray, "points quantities seeds"]
    dominated: Bool[np.ndarray, "points points"]
    on_front: Bool[np.ndarray, " points"]

    @cached_property
    def states(self) -> dict[int, str]:
        """State of every compared point by its position: FRONT, OPEN or DOMINATED."""
        dominated = np.any(self.dominated, axis=1).tolist()
        return {
            place: DOMINATED if dominated[i] else FRONT if self.on_front[i] else OPEN
            for i, place in enumerate(self.places)
        }

    def find_better(self, place: int) -> list[int]:
        """Return the positions of the points that dominate a point beyond the spread."""
        row = list(self.dominated[self.places.index(place), :])
        return [other for other, better in zip(self.places, row, strict=True) if better]

    def mean(self, place: int, name: str) -> float:
        """Return the mean of a quantity over the compared seeds."""
        return float(self._values_of(place, name).mean())

    def interval(self, place: int, name: str, confidence: float) -> tuple[float, float]:
        """Return the confidence interval of that mean; NaN without a spread."""
        return compute_interval(self._values_of(place, name), confidence)

    def _values_of(self, place: int, name: str) -> Float[np.ndarray, " seeds"]:
        values: Float[np.ndarray, " seeds"] = self.values[
            self.places.index(place), self.names.index(name)
        ]
        known: Float[np.ndarray, " known"] = values[~np.isnan(values)]
        return known


def collect_points(
    numbers: Sequence[RunNumbers],
    names: Sequence[str],
    within: Sequence[str] = (),
    across: Sequence[str] = (),
) -> tuple[list[Point], list[str]]:
    """Return the settings of experiments that have a finished run, and the full names.

    Args:
        numbers: Numbers of the experiments.
        names: Names of quantities, short or full.
        within: Further axes that are conditions.
        across: Axes, or whole parts such as `adversary`, that are no conditions.

    Raises:
        RequestError: For a name of a quantity or of an axis that no experiment has.
    """
    full_names = [find_name(numbers, name) for name in names]
    grids = [build_grid(each.results) for each in numbers]
    axes = list(dict.fromkeys(axis for grid in grids for axis in grid.axes))
    added, removed = ([_find_axis(axes, word) for word in words] for words in (within, across))
    conditions = [
        axis
        for axis in axes
        if axis.split(".")[0] in CONDITIONS and not {axis, axis.split(".")[0]} & {*removed}
    ]
    several = len({name for grid in grids for name in list_distinct(grid, "dataset")}) > 1
    points = [
        point
        for grid, each in zip(grids, numbers, strict=True)
        for point in _collect(grid, each, full_names, {*conditions, *added}, several)
    ]
    parts = [_read_conditions(setting, removed) for grid in grids for setting in grid.finished]
    points = _tell_apart(points, parts)
    if len(numbers) > 1:
        points = [p._replace(label=f"{p.experiment} · {p.label}") for p in points]
    return points, full_names


def _find_axis(axes: Sequence[str], word: str) -> str:
    """Return the axis of a field path or of its last part, or the part of an experiment."""
    if word in CONDITIONS and word not in axes:
        return word
    found = [axis for axis in axes if word in (axis, axis.split(".")[-1])]
    if len(found) != 1:
        close = suggest(word, axes)
        raise RequestError(f"no axis {word!r}{close}; there are {', '.join(axes) or 'none'}")
    return found[0]


def _read_conditions(setting: Setting, removed: Collection[str]) -> dict[str, Any]:
    """Return the fields of an experiment that are conditions, by path; None for no such part."""
    fields: dict[str, Any] = {}
    for part in CONDITIONS:
        value = setting.experiment.get(part)
        if part == "evaluation":
            value = {name: (value or {}).get(name) for name in EVALUATION}
        fields |= _flatten(part, value)
    return {
        path: value
        for path, value in fields.items()
        if not any(path == each or path.startswith(f"{each}.") for each in removed)
    }


def _flatten(path: str, value: Any) -> dict[str, Any]:
    """Return the numbers and words in nested values by their path."""
    items = list(value.items()) if isinstance(value, dict) else []
    items = list(enumerate(value)) if isinstance(value, list) else items
    if not items:
        return {path: value}
    return {k: v for name, each in items for k, v in _flatten(f"{path}.{name}", each).items()}


def _tell_apart(points: Sequence[Point], parts: Sequence[dict[str, Any]]) -> list[Point]:
    """Return the points with a condition of their own where their parts differ.

    The axes of a sweep are in the conditions already; other parts differ between experiments.
    """
    named = list(points)
    for places in split_conditions(points).values():
        keys = [json.dumps(parts[place], sort_keys=True) for place in places]
        if len(set(keys)) < 2:
            continue
        paths = dict.fromkeys(path for place in places for path in parts[place])
        differing = [
            path for path in paths if len({str(parts[p].get(path, ...)) for p in places}) > 1
        ]
        words = [_describe_parts(parts[place], differing) for place in places]
        for place, key, word in zip(places, keys, words, strict=True):
            clashes = {k for k, w in zip(keys, words, strict=True) if w == word} != {key}
            own = [points[place].condition, word, points[place].experiment if clashes else ""]
            named[place] = points[place]._replace(condition=" · ".join(filter(None, own)))
    return named


def _describe_parts(fields: Mapping[str, Any], differing: Sequence[str]) -> str:
    """Return the values of differing fields: names of classes for parts, else field and value."""
    words = []
    for part in dict.fromkeys(path.split(".")[0] for path in differing):
        own = {
            path: fields[path]
            for path in differing
            if path.split(".")[0] == part and path in fields
        }
        classes = [str(v).rpartition(".")[2] for path, v in own.items() if path.endswith(".class")]
        classes = [name for name in classes if name.lower() != part]
        plain = [f"{shorten_path(path)} {v}" for path, v in own.items() if v is not None]
        words.append(f"{part}: {', '.join(classes or plain[:3]) or 'none'}")
    return " · ".join(words)


def split_conditions(points: Sequence[Point]) -> dict[str, list[int]]:
    """Return the positions of the points by their condition."""
    places: dict[str, list[int]] = {}
    for place, point in enumerate(points):
        places.setdefault(point.condition, []).append(place)
    return places


def find_name(numbers: Sequence[RunNumbers], name: str) -> str:
    """Return the full name of a quantity that any experiment has.

    Raises:
        RequestError: If none has it.
    """
    errors = []
    for each in numbers:
        try:
            return each.find(name)
        except RequestError as error:
            errors.append(error)
    raise errors[0]


def _collect(
    grid: Grid,
    numbers: RunNumbers,
    names: Sequence[str],
    conditions: Collection[str],
    several_datasets: bool,
) -> list[Point]:
    points = []
    for setting in grid.finished:
        places = setting.cells.index
        seeds = [int(seed) for seed in setting.cells["seed"]]
        values, reasons = {}, {}
        for name in names:
            known = name in numbers.names
            found = numbers.values(name).loc[places] if known else pd.Series(dtype=float)
            pairs = zip(seeds, map(float, found), strict=False)
            values[name] = {seed: value for seed, value in pairs if value == value}
            if not values[name]:
                reasons[name] = numbers.reason(name, places) if known else "not measured"
        own = {axis: word for axis, word in setting.values.items() if axis in conditions}
        condition = Setting(own, setting.cells, setting.rows, setting.folders).label
        if several_datasets:
            dataset = format_dataset(str(setting.cells["dataset"].iloc[0]))
            condition = f"{dataset} · {condition}" if condition else dataset
        label = setting.label or grid.name
        points.append(Point(grid.name, label, setting.values, condition, values, reasons))
    return points


def compare(
    points: Sequence[Point],
    names: Sequence[str],
    directions: Mapping[str, Direction],
    confidence: float = CONFIDENCE,
    among: Sequence[int] | None = None,
) -> Comparison:
    """Compare points in some quantities; points that lack one are left out.

    Args:
        points: All points.
        names: Full names of the quantities.
        directions: Directions by full name.
        confidence: Level of the intervals that a difference has to exceed.
        among: Positions of the points to compare; None for all.
    """
    left_out, places = dict[int, str](), list[int]()
    for place in range(len(points)) if among is None else among:
        missing = [name for name in names if not points[place].values[name]]
        if missing:
            label = describe_quantity(missing[0]).label
            left_out[place] = f"{label}: {points[place].reasons[missing[0]]}"
        else:
            places.append(place)
    known = [[set(points[place].values[name]) for name in names] for place in places]
    own = [set.intersection(*each) for each in known]
    shared = sorted(set.intersection(*own)) if own else []
    seeds = shared if len(shared) > 1 else sorted(set[int]().union(*(s for k in known for s in k)))
    values = np.array(
        [
            [[points[place].values[name].get(seed, np.nan) for seed in seeds] for name in names]
            for place in places
        ]
    ).reshape(len(places), len(names), len(seeds))
    signs = np.array([1.0 if directions[name] == "higher" else -1.0 for name in names])
    oriented = values * signs[:, None]
    return Comparison(
        names=tuple(names),
        places=tuple(places),
        left_out=left_out,
        seeds=tuple(shared) if len(shared) > 1 else (),
        unpaired=sum(len(a & b) < 2 for a, b in combinations(own, 2)),
        values=values,
        dominated=find_dominated_in_pairs(oriented, confidence),
        on_front=find_front(np.nanmean(oriented, -1)) if places else np.zeros(0, bool),
    )


def keep_compared_seeds(points: Sequence[Point], comparisons: Sequence[Comparison]) -> list[Point]:
    """Return the points with the values of the seeds alone over which they are compared.

    Points that share fewer than two seeds keep all of theirs, whose means are compared. Of several
    comparisons of a quantity the last counts, that of all quantities.
    """
    kept = list(points)
    for each in comparisons:
        for place in each.places if each.seeds else ():
            own = points[place].values
            values = {name: {seed: own[name][seed] for seed in each.seeds} for name in each.names}
            kept[place] = kept[place]._replace(values=kept[place].values | values)
    return kept


def describe_spread(comparisons: Sequence[Comparison], confidence: float) -> str:
    """Return a sentence on the seeds that are compared, and the spread."""
    if not all(each.seeds for each in comparisons):
        unpaired = sum(each.unpaired for each in comparisons)
        count = sum(math.comb(len(each.places), 2) for each in comparisons)
        if unpaired == count:
            return (
                "Settings share fewer than two seeds, so no spread is known: means are compared, "
                "and any difference counts."
            )
        several = (
            f" {unpaired} of {count} pairs share fewer than two seeds: their means are compared, "
            "and any difference counts."
        )
        return (
            "Two settings are compared over the seeds that both have: a difference exceeds the "
            f"spread if its {100 * confidence:g} % confidence interval (Student's t) excludes 0."
            f"{several * bool(unpaired)}"
        )
    seeds = dict.fromkeys(", ".join(map(str, each.seeds)) for each in comparisons)
    return (
        f"Settings are compared seed by seed (seeds {' or '.join(seeds)}): a difference exceeds "
        f"the spread if its {100 * confidence:g} % confidence interval (Student's t) excludes 0."
    )


def group_by_axis(points: Sequence[Point]) -> tuple[str, list[str]]:
    """Return the name of what colours and markers show, and its value for every point.

    It is the experiment if there are several, else all axes of the model, else the first axis, of
    those with few enough values; the name is empty if there is none.
    """
    experiments = [point.experiment for point in points]
    if len(set(experiments)) > 1:
        return "experiment", experiments if len(set(experiments)) <= MAX_GROUPS else []
    axes = list(points[0].settings) if points else []
    models = [axis for axis in axes if axis.startswith("model")]
    for chosen in (models, *([axis] for axis in (*models, *axes))):
        words = [" · ".join(point.settings[axis] for axis in chosen) for point in points]
        if 1 < len(set(words)) <= MAX_GROUPS:
            return ", ".join(map(shorten_path, chosen)), words
    return "", []


@rc_context(STYLE)
def draw_fronts(
    name: str,
    points: Sequence[Point],
    comparisons: Sequence[Comparison],
    directions: Mapping[str, Direction],
    caption: str,
    confidence: float = CONFIDENCE,
    columns: int = 3,
    key: bool = False,
) -> Drawing:
    """Draw a panel for each comparison of two quantities, the cost on the x axis.

    Args:
        name: Name of the figure.
        points: All points; their numbers in the figure start from 1.
        comparisons: One per panel, of the x and the y quantity.
        directions: Directions by full name.
        caption: Caption, to which the meaning of the marks is added.
        confidence: Level of the intervals that are drawn.
        columns: Largest number of panels per row.
        key: Whether to name the points of the fronts below the panels.
    """
    title, words = group_by_axis(points)
    groups = list(dict.fromkeys(words))
    looks = {word: (COLOURS[i], MARKERS[i % len(MARKERS)]) for i, word in enumerate(groups)}
    titles = [points[each.places[0]].condition for each in comparisons]
    titles = titles if len(set(titles)) > 1 else [""] * len(titles)
    figure, panels = create_panels(titles, columns, 2.7)
    costs = [
        describe_quantity(each.names[0]).form.scale * each.mean(place, each.names[0])
        for each in comparisons
        for place in each.places
    ]
    for comparison, axes in zip(comparisons, panels, strict=True):
        scale_costs(axes, costs)
        styles = {
            place: looks[words[place]] if words else (COLOURS[0], MARKERS[0])
            for place in comparison.places
        }
        _draw_front(axes, comparison, styles, directions, confidence)
    marks = [
        Line2D([], [], color=GREY, marker="o", linestyle="", label=f"{FRONT} (by means)"),
        Line2D([], [], color=GREY, marker="o", mfc="white", linestyle="", label=OPEN),
        Line2D([], [], color=GREY, marker="o", ms=2.2, linestyle="", label=DOMINATED),
    ]
    coloured = [
        Line2D([], [], color=looks[word][0], marker=looks[word][1], linestyle="", label=word)
        for word in groups
    ]
    widest = max(map(len, groups), default=0)
    _add_legend(figure, [*coloured, *marks], title, 2 if widest > 34 else 3 if widest > 20 else 6)
    if key:
        _add_key(figure, points, comparisons)
    return export_figure(name, figure, f"{caption} {MEANINGS}")


def _add_legend(figure: Figure, handles: list[Line2D], title: str, columns: int) -> None:
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=min(columns, len(handles)),
        title=title or None,
        alignment="left",
        title_fontproperties={"weight": "bold"},
    )


def _add_key(figure: Figure, points: Sequence[Point], comparisons: Sequence[Comparison]) -> None:
    """Name the points that have a number in any panel, below the panels."""
    numbered = [
        place
        for place in range(len(points))
        if any(c.states.get(place, DOMINATED) != DOMINATED for c in comparisons)
    ]
    lines = [f"{place + 1}  {points[place].label}" for place in numbered[:MAX_KEY]]
    more = len(numbered) - len(lines)
    lines += [f"and {more} more"] if more > 0 else []
    handles = [Line2D([], [], linestyle="", label=line) for line in lines]
    figure.set_figheight(figure.get_figheight() + 0.2 * len(lines))
    figure.legend(
        handles=handles, loc="outside lower left", handlelength=0, handletextpad=0, fontsize=7.5
    )


def _draw_front(
    axes: Axes,
    comparison: Comparison,
    styles: Mapping[int, tuple[str, str]],
    directions: Mapping[str, Direction],
    confidence: float,
) -> None:
    """Draw the points of a comparison, their intervals, and the steps through the front."""
    x_name, y_name = comparison.names
    scales = [describe_quantity(name).form.scale for name in comparison.names]
    centres = {
        place: [
            s * comparison.mean(place, n) for n, s in zip(comparison.names, scales, strict=True)
        ]
        for place in comparison.places
    }
    alike: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for place, (x, y) in centres.items():
        colour, marker = styles[place]
        state = comparison.states[place]
        drawn = state != DOMINATED
        bounds = [comparison.interval(place, name, confidence) for name in comparison.names]
        for along, (low, high), scale in zip("xy", bounds, scales, strict=True):
            if drawn and low == low:
                ends = [low * scale, high * scale]
                line = (ends, [y, y]) if along == "x" else ([x, x], ends)
                axes.plot(
                    *line, color=colour, lw=0.8, alpha=0.6, zorder=2, scalex=False, scaley=False
                )
        alike.setdefault((colour, marker, state), []).append((x, y))
    for (colour, marker, state), points in alike.items():
        drawn = state != DOMINATED
        face = "white" if state == OPEN else colour
        size, alpha = (6.0, 1.0) if drawn else (3.2, 0.55)
        x_values, y_values = zip(*points, strict=True)
        (dots,) = axes.plot(x_values, y_values, marker, color=colour, mfc=face, ms=size)
        dots.set(alpha=alpha, zorder=4 if drawn else 3)
    heights = np.array([y for _, y in centres.values()])
    margin = 0.16 * (heights.max() - heights.min()) or 0.1 * abs(heights.max()) or 1.0
    axes.set_ylim(heights.min() - margin, heights.max() + margin)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    on_front = sorted(centres[p] for p, state in comparison.states.items() if state == FRONT)
    where: Literal["pre", "post"] = "post" if directions[x_name] == "lower" else "pre"
    axes.step(*zip(*on_front, strict=True), where=where, color=INK, lw=0.9, alpha=0.7, zorder=1)
    _number_points(axes, comparison, centres)
    for name, set_label in ((x_name, axes.set_xlabel), (y_name, axes.set_ylabel)):
        words = (
            ""
            if name == x_name and directions[name] == "lower"
            else f" ({directions[name]} is better)"
        )
        heading = describe_quantity(name).heading
        set_label(f"{heading}\n{words.strip()}" if name == y_name else heading + words)


def scale_costs(axes: Axes, costs: Sequence[float]) -> None:
    """Set the x axis to the costs of all panels, logarithmic where they span decades."""
    low, high = min(costs), max(costs)
    if low <= 0 or high / low < LOG_SCALE_RATIO:
        margin = 0.14 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_xlim(low - margin, high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        return
    axes.set_xscale("log")
    margin = (high / low) ** 0.12
    axes.set_xlim(low / margin, high * margin)
    steps = (1.0, 3.0) if high / low < MANY_DECADES else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def _number_points(
    axes: Axes, comparison: Comparison, centres: Mapping[int, Sequence[float]]
) -> None:
    """Write the numbers of points that are not dominated beside them, where there is room."""
    to_unit = axes.transData + axes.transAxes.inverted()
    spots = {place: to_unit.transform(centre) for place, centre in centres.items()}
    taken = list(spots.values())
    for place, spot in spots.items():
        if comparison.states[place] == DOMINATED:
            continue
        offsets = [(7, 5), (7, -5), (-7, 5), (-7, -5), (0, 9), (0, -9), (12, 0), (-12, 0)]
        candidates = [spot + np.array(offset) / np.array([190.0, 150.0]) for offset in offsets]
        gaps = [min(float(np.abs(c - other).sum()) for other in taken) for c in candidates]
        best = int(np.argmax(gaps))
        taken.append(candidates[best])
        axes.annotate(
            str(place + 1),
            (centres[place][0], centres[place][1]),
            offsets[best],
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            color=INK,
            weight="bold" if comparison.states[place] == FRONT else "normal",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )


def tabulate_points(
    points: Sequence[Point],
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    confidence: float = CONFIDENCE,
) -> pd.DataFrame:
    """Return one row per point with means, intervals, states, and which points are better.

    Args:
        points: All points.
        names: Full names of the quantities, the x quantity first.
        comparisons: One per y quantity with x, and one of all quantities if there are several.
        confidence: Level of the intervals.
    """
    rows = []
    for place, point in enumerate(points):
        row: dict[str, object] = {"point": place + 1, "experiment": point.experiment}
        row |= {f"settings.{axis}": word for axis, word in point.settings.items()}
        for name in names:
            values = np.array(list(point.values[name].values()))
            low, high = compute_interval(values, confidence)
            mean = float(values.mean()) if len(values) else float("nan")
            row |= {name: mean, f"{name}_low": low, f"{name}_high": high}
            row[f"{name}_seeds"] = len(values)
        for comparison in comparisons:
            if place not in (*comparison.places, *comparison.left_out):
                continue
            about = comparison.names[1] if len(comparison.names) == 2 else "all"
            state = comparison.states.get(place, "")
            better = comparison.find_better(place) if state else []
            row[f"{about}_state"] = state or comparison.left_out[place]
            row[f"{about}_dominated_by"] = " ".join(str(other + 1) for other in better)
        rows.append(row)
    return pd.DataFrame(rows)


def format_mean(point: Point, name: str, confidence: float = CONFIDENCE) -> str:
    """Return the mean of a quantity over a point's seeds, and half of its confidence interval."""
    form = describe_quantity(name).form
    values = np.array(list(point.values[name].values()))
    if not len(values):
        return "-"
    low, high = compute_interval(values, confidence)
    text = format_number(float(values.mean()), form)
    half = (high - low) / 2
    if half != half or half == 0:
        return text
    return f"{text} ± {format_number(half, form._replace(signed=False))}"
