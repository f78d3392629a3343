"""Pareto fronts of cost against accuracy, fairness, leakage and attack success."""

from collections.abc import Mapping, Sequence

from fl_sim.report.components import Cell, Drawing, Section, Table, build_table
from fl_sim.report.grid import Grid
from fl_sim.report.panels import limit_panels
from fl_sim.report.quantities import describe_quantity
from fl_sim.report.tradeoffs import (
    DOMINATED,
    Comparison,
    Point,
    collect_points,
    compare,
    describe_spread,
    draw_fronts,
    format_mean,
    keep_compared_seeds,
    split_conditions,
)
from fl_sim.results.pareto import CONFIDENCE
from fl_sim.results.quantities import Direction, find_direction

COSTS = ("cost.bytes", "cost.cpu_seconds")
GAINS = (
    *("accuracy", "fairness_worst_client", "mia_margin_auc", "attack_success"),
    *("corruption_mean_accuracy", "adversarial_accuracy"),
)
MIN_POINTS = 3
MIN_RATIO = 1.05  # of the largest to the smallest number of bytes
MAX_ROWS = 60
MAX_PANELS, MAX_COLUMNS = 12, 4


def build_tradeoffs(grid: Grid) -> Section | None:
    """Return the fronts, or None if settings do not differ in the bytes that they send."""
    numbers = grid.numbers
    names = [name for name in (*COSTS, *GAINS) if name in numbers.names]
    points, _ = collect_points([numbers], names)
    costs = [name for name in COSTS if name in names]
    gains = [name for name in GAINS if sum(bool(p.values.get(name)) for p in points) >= MIN_POINTS]
    if not gains or not costs or not _costs_differ(points):
        return None
    directions: dict[str, Direction] = {n: find_direction(n) or "higher" for n in names}
    conditions = split_conditions(points)
    comparisons = [
        compare(points, (x, y), directions, among=among)
        for x in costs
        for among in conditions.values()
        for y in gains
    ]
    comparisons = [each for each in comparisons if each.places]
    points = keep_compared_seeds(points, comparisons)
    paragraphs = [
        "What a setting costs against what it gives. Only settings with the same data, partition, "
        "protected share, domains, attack and evaluation are compared. "
        f"{describe_spread(comparisons, CONFIDENCE)}",
        "No correction is made for the number of settings that are compared. The command "
        "fl-sim tradeoffs draws fronts of any two quantities, and of several experiments.",
    ]
    left_out = {place: why for each in comparisons for place, why in each.left_out.items()}
    paragraphs += [f"Left out: {points[p].label}: {why}." for p, why in left_out.items()]
    components: list[Drawing | Table] = []
    for x in costs:
        own = [each for each in comparisons if each.names[0] == x]
        most = limit_panels(grid, MAX_PANELS)
        components += [
            _draw(points, own, directions, most),
            _build_table(grid, points, x, gains, own),
        ]
    return Section("tradeoffs", "Trade-offs", tuple(paragraphs), tuple(components))


def _draw(
    points: Sequence[Point],
    comparisons: Sequence[Comparison],
    directions: Mapping[str, Direction],
    max_panels: int,
) -> Drawing:
    """Draw the fronts against one cost: a row of panels for each condition."""
    cost = comparisons[0].names[0]
    num_gains = len({each.names[1] for each in comparisons})
    columns = num_gains if num_gains <= MAX_COLUMNS else MAX_COLUMNS - 1
    shown = comparisons[: max(1, max_panels // columns) * columns]
    caption = (
        f"{describe_quantity(cost).heading} against what is gained. Each point is a setting, "
        "numbered as in the table below: mean over seeds, with 95 % intervals of the mean, which "
        "may reach beyond a panel. The steps join the front."
    )
    if len(shown) < len(comparisons):
        caption += f" The first {len(shown)} of {len(comparisons)} panels are drawn."
    name = f"pareto_{cost.rpartition('.')[2]}"
    return draw_fronts(name, points, shown, directions, caption, columns=columns)


def _costs_differ(points: Sequence[Point]) -> bool:
    sent = [value for point in points for value in point.values.get(COSTS[0], {}).values()]
    return len(points) >= MIN_POINTS and bool(sent) and max(sent) > MIN_RATIO * min(sent)


def _build_table(
    grid: Grid,
    points: Sequence[Point],
    cost: str,
    gains: Sequence[str],
    comparisons: Sequence[Comparison],
) -> Table:
    """Return the points with their state on the front of each gain."""
    rows = []
    for place, point in enumerate(points):
        words = [*(point.settings.values() or [grid.name]), str(place + 1)]
        cells = [Cell(format_mean(point, cost))]
        own = {c.names[1]: c for c in comparisons if place in c.places}
        for name in gains:
            state = _describe_state(own[name], place) if name in own else ""
            cells.append(Cell(format_mean(point, name), extra=state))
        kept = any(each.states[place] != DOMINATED for each in own.values())
        rows.append((kept, [*map(Cell, words), *cells]))
    shown = rows if len(rows) <= MAX_ROWS else [row for row in rows if row[0]][:MAX_ROWS]
    columns = [describe_quantity(name).heading for name in (cost, *gains)]
    caption = f"Fronts against {describe_quantity(cost).label}"
    caption += "" if len(shown) == len(rows) else ", without dominated points"
    return build_table(caption, [*grid.heads, "point"], columns, [row for _, row in shown])


def _describe_state(comparison: Comparison, place: int) -> str:
    """Return the state of a point, with the first point that dominates it."""
    better = comparison.find_better(place)
    return comparison.states[place] + (f" by {better[0] + 1}" if better else "")
