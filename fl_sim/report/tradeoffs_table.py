"""Table of Pareto fronts for the terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from fl_sim.report.quantities import describe_quantity
from fl_sim.report.tradeoffs import (
    DOMINATED,
    FRONT,
    MEANINGS,
    OPEN,
    Comparison,
    Point,
    describe_spread,
    format_mean,
    split_conditions,
)
from fl_sim.report.wide_table import LOOK, WideTable
from fl_sim.results.quantities import Direction

MARKS = {FRONT: "*", OPEN: "~", DOMINATED: "<"}
STYLES = {FRONT: "bold green", OPEN: "", DOMINATED: "dim"}


def build_fronts_table(
    points: Sequence[Point],
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    directions: Mapping[str, Direction],
    confidence: float,
) -> Table:
    """Return one row per setting, in the order of the x quantity, with a mark for each front.

    Args:
        points: All settings.
        names: Full names of the quantities, the x quantity first.
        comparisons: One per condition and y quantity with x, and of all quantities if there are
            several.
        directions: Directions by full name.
        confidence: Level of the intervals.
    """
    table = WideTable(
        num_keys=2,
        title=f"Pareto fronts against {describe_quantity(names[0]).label}",
        caption=_build_caption(points, comparisons, confidence),
        **LOOK,
    )
    table.add_column("#", justify="right")
    table.add_column("setting", min_width=18)
    for name in names:
        table.add_column(_describe_column(name, directions[name]), justify="right", no_wrap=True)
    if len(names) > 2:
        table.add_column("all", no_wrap=True)
    sign = 1 if directions[names[0]] == "lower" else -1
    conditions = split_conditions(points)
    for condition, places in conditions.items():
        if len(conditions) > 1:
            table.add_section()
            table.add_row("", Text(condition, "bold"))
        own = [each for each in comparisons if places[0] in (*each.places, *each.left_out)]
        for place in sorted(places, key=lambda place: _sort_key(points[place], names[0], sign)):
            table.add_row(*_format_row(place, points[place], names, own, confidence))
    return table


def _sort_key(point: Point, name: str, sign: int) -> float:
    values = list(point.values[name].values())
    return sign * sum(values) / len(values) if values else float("inf")


def _describe_column(name: str, direction: Direction) -> str:
    label, _, unit = describe_quantity(name)
    words = label.replace(" ", "\n", 1)
    return f"{words}{', ' * bool(unit)}{unit}\n({direction})"


def _format_row(
    place: int,
    point: Point,
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    confidence: float,
) -> list[Text]:
    cells = [Text(str(place + 1)), Text(point.label.replace(" · ", "\n", 1))]
    cells.append(Text(format_mean(point, names[0], confidence).replace(" ± ", "\n±")))
    for name, comparison in zip(names[1:], comparisons, strict=False):
        words = format_mean(point, name, confidence).replace(" ± ", "\n±")
        first, line, rest = words.partition("\n")
        state = comparison.states.get(place, "")
        mark = _mark(comparison, place)
        cells.append(Text(f"{first} {mark}{line}{rest}", STYLES.get(state, "dim")))
    cells += [Text(_mark(each, place)) for each in comparisons[len(names) - 1 :]]
    return cells


def _mark(comparison: Comparison, place: int) -> str:
    """Return the mark of a point's state, with the first point that dominates it."""
    state = comparison.states.get(place)
    if state is None:
        return "-"
    better = comparison.find_better(place)
    return MARKS[state] + (str(better[0] + 1) if better else "")


def _build_caption(
    points: Sequence[Point], comparisons: Sequence[Comparison], confidence: float
) -> Text:
    marks = f"{MARKS[FRONT]} {FRONT}, {MARKS[OPEN]} {OPEN}, {MARKS[DOMINATED]}n {DOMINATED} by n. "
    spread = f"± half of the {100 * confidence:g} % interval of the mean. "
    text = marks + MEANINGS + " " + spread + describe_spread(comparisons, confidence)
    if len(split_conditions(points)) > 1:
        text += (
            " Settings below different headings differ in data, domains, adversary or evaluation; "
            "only --across compares them, with one of these names."
        )
    caption = Text(text, "not italic dim")
    left_out = {place: why for each in comparisons for place, why in each.left_out.items()}
    for place, why in left_out.items():
        caption.append(f"\n- left out: {points[place].label}: {why}", "yellow not dim")
    return caption
