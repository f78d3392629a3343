"""The FM card: what a foundation model buys and what it costs, criterion by criterion."""

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fl_sim.report.components import Cell, Drawing, Section, Table, build_table
from fl_sim.report.formats import (
    UNDEFINED,
    NumberFormat,
    drop_undefined,
    format_count,
    format_number,
    mean,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.quantities import describe_quantity
from fl_sim.report.sections.model_comparison import TARGET_SHARE, count_rounds_to
from fl_sim.report.style import GREY, INK, STYLE, WIDTH, create_figure, export_figure
from fl_sim.report.twins import (
    Difference,
    Twins,
    find_twins,
    group_by_model,
    measure_difference,
    pair_by_seed,
)
from fl_sim.results.quantities import RunNumbers, find_direction

ROUNDS = "rounds_to_target"
BETTER, WORSE, UNSEEN = "better", "worse", "no difference seen"
EQUAL, ONE_SEED, MISSING = "equal", "one seed", "not measured"
FILLS = {BETTER: "#cfe3f2", WORSE: "#f8d8c0"}  # pale blue and orange; each has its word as well
PLAIN = "#f1f1f1"
RATIOS = ("cost.bytes", "cost.cpu_seconds")  # compared as a factor too
MAX_MODELS = 4  # columns of the figure
ROW_HEIGHT, LINE_HEIGHT = 0.38, 0.14  # inches, of a row and of a line of the headings
LABEL_WIDTH = 2.55  # inches


class Criterion(NamedTuple):
    """A row of the card.

    Attributes:
        criterion: Criterion that the quantity belongs to.
        quantity: Full name of the quantity.
        place: Section of the page that shows it.
        source: Paper that the comparison follows.
        needs: Setting without which it is not measured.
    """

    criterion: str
    quantity: str
    place: str
    source: str
    needs: str = ""


ROBUSTNESS, LEAKAGE = "Calibration and robustness", "Membership leakage"
ROWS = tuple(
    Criterion(*row)
    for row in (
        ("utility", "accuracy", "Key numbers", "Nguyen et al. (2023), arXiv 2206.15387"),
        ("utility", ROUNDS, "Comparison of models", "Chen et al. (2023), arXiv 2206.11488"),
        ("utility", "calibration_error", ROBUSTNESS, "Guo et al. (2017), arXiv 1706.04599"),
        (
            *("robustness", "attack_success", "Attacks", "Li and Wang (2024), arXiv 2402.01857"),
            "a backdoor",
        ),
        (
            *("robustness", "backdoor.half_life", "Attacks", "Li et al. (2024), arXiv 2401.10375"),
            "a planted start",
        ),
        (
            *("robustness", "corruption_mean_accuracy", ROBUSTNESS),
            *("Hendrycks and Dietterich (2019), arXiv 1903.12261", "evaluation.corruptions"),
        ),
        (
            *("robustness", "adversarial_accuracy", ROBUSTNESS),
            *("Madry et al. (2018), arXiv 1706.06083", "evaluation.adversarial"),
        ),
        (
            *("privacy", "mia_margin_auc", LEAKAGE, "Tobaben et al. (2024), arXiv 2402.06674"),
            "data.held_out above 0",
        ),
        (
            *("privacy", "mia_margin_tpr_at_0.01", LEAKAGE),
            *("Carlini et al. (2022), arXiv 2112.03570", "300 audited non-members"),
        ),
        (
            *("fairness", "fairness_worst_client", "Fairness"),
            "a paradox of fairness: arXiv 2605.08992",
        ),
        ("fairness", "fairness_spread", "Fairness", "Chu et al. (2024), arXiv 2402.02225"),
        ("cost", "cost.bytes", "Cost", "Sun et al. (2022), arXiv 2210.01708"),
        ("cost", "cost.cpu_seconds", "Cost", "Lu et al. (2023), arXiv 2302.13485"),
        (
            *("cost", "cost.download_once", "Cost"),
            "this project: 4 bytes for each number that is neither trained nor sent",
        ),
    )
)


class Verdict(NamedTuple):
    """The verdict on one quantity of one model: its word, numbers as text, and the difference."""

    word: str
    numbers: str = ""
    difference: str = ""


def build_fm_card(grid: Grid) -> Section | None:
    """Return the card, or None if no setting with a foundation model has a random twin."""
    closest = find_twins(grid)
    if not closest:
        return None
    groups = group_by_model([*closest, *find_twins(grid, other_backbone=True)])
    # the closest twin may be of another backbone already
    groups = {key: list({id(p.setting): p for p in own}.values()) for key, own in groups.items()}
    numbers = grid.numbers
    verdicts = {
        key: [_judge(numbers, row.quantity, pairs) for row in ROWS] for key, pairs in groups.items()
    }
    drawing = _draw_card(grid, groups, verdicts)
    components = (drawing, _build_models(groups), _build_numbers(verdicts), _build_sources())
    paragraph = (
        "Each foundation model is compared with the model of a random start in the same setting: "
        "same data, clients, rule, attack and seed. A verdict is given where the 95 % interval "
        "over seeds of the mean paired difference (Student's t) excludes 0; no correction is made "
        "for the number of rows. Where the models differ in more than their start, differences are "
        "not due to pre-training alone."
    )
    return Section("fm_card", "What the foundation model buys and costs", (paragraph,), components)


def _build_models(groups: dict[tuple[str, str], list[Twins]]) -> Table:
    """Return the models that are compared, and the fields in which they differ."""
    rows = []
    for (model, twin), pairs in groups.items():
        differing = ", ".join(name for name in pairs[0].differing if name != "backbone_rate")
        rows.append([*map(Cell, (model, twin, differing or "nothing else", str(len(pairs))))])
    columns = ("differ beside the start in", "settings")
    return build_table("Models of the card", ("model", "against"), columns, rows, False)


def _judge(numbers: RunNumbers, name: str, pairs: Sequence[Twins]) -> Verdict:
    """Return the verdict on a quantity, averaged over the pairs."""
    if name == ROUNDS:
        difference = _compare_rounds(pairs)
    else:
        difference = measure_difference(numbers, name, pairs)
    if difference is None:
        return Verdict(MISSING, difference=_explain_missing(numbers, name, pairs))
    higher_is_better = name != ROUNDS and find_direction(name) == "higher"
    return describe_difference(name, difference, len(pairs), higher_is_better=higher_is_better)


def describe_difference(
    name: str, difference: Difference, num_pairs: int, *, higher_is_better: bool
) -> Verdict:
    """Return the verdict on a difference: better or worse where its interval excludes 0.

    Args:
        name: Full name of the quantity.
        difference: The difference to the twins.
        num_pairs: Number of pairs, some of which may lack the quantity.
        higher_is_better: Whether a positive difference is better.
    """
    display = describe_quantity(name)
    form = display.form
    if name in RATIOS and max(difference.own, difference.other) * form.scale < 1:
        form = form._replace(decimals=form.decimals + 2)
    signed = form._replace(signed=True)
    own, other = (format_number(x, form) for x in (difference.own, difference.other))
    unit = f" {display.unit}" if display.unit else ""
    text = f"{own} against {other}{unit}"
    if name in RATIOS and difference.other > 0 and difference.values.any():
        text += f", {difference.own / difference.other:.3g} times"
    low, high = difference.interval()
    if not difference.values.any():
        word, change = EQUAL, ""
    elif low != low:
        word, change = ONE_SEED, format_number(difference.mean, signed)
    else:
        seen = low > 0 or high < 0
        good = (difference.mean > 0) == higher_is_better
        word = UNSEEN if not seen else BETTER if good else WORSE
        change = format_number(difference.mean, signed)
        change += f" [{_format_bounds(low, high, form)}]" if high > low else ""
    if difference.num_pairs < num_pairs:
        change += f" ({difference.num_pairs} of {num_pairs} settings)"
    return Verdict(word, text, change)


def _format_bounds(low: float, high: float, form: NumberFormat) -> str:
    signed = form._replace(signed=True)
    return f"{format_number(low, signed)}, {format_number(high, signed)}"


def _compare_rounds(pairs: Sequence[Twins]) -> Difference | None:
    """Return the rounds to 90 % of the better final accuracy of each pair.

    A run that does not reach it counts with one more than its rounds, which is a lower bound.
    """
    return pair_by_seed([_count_rounds(pair) for pair in pairs])


def _count_rounds(pair: Twins) -> tuple[dict[int, float], dict[int, float]]:
    finals = [mean(each.summary_values("accuracy")) for each in (pair.setting, pair.twin)]
    goal = TARGET_SHARE * max(drop_undefined(finals), default=float("nan"))
    if math.isnan(goal):
        return {}, {}
    own, other = (_count_rounds_by_seed(each, goal) for each in (pair.setting, pair.twin))
    return own, other


def _count_rounds_by_seed(setting: Setting, goal: float) -> dict[int, float]:
    rows = setting.metric_rows("accuracy")
    seeds = sorted({int(seed) for seed in rows["seed"]})
    never = float(rows["round"].max()) + 1
    counts = count_rounds_to(setting, goal)
    return {s: never if c != c else c for s, c in zip(seeds, counts, strict=True)}


def _explain_missing(numbers: RunNumbers, name: str, pairs: Sequence[Twins]) -> str:
    """Return the reason for which a quantity is missing, or the setting that measures it."""
    needs = {row.quantity: row.needs for row in ROWS}[name]
    if name in numbers.names:
        for setting in (pairs[0].setting, pairs[0].twin):
            reason = numbers.reason(name, setting.cells.index)
            if reason != MISSING:
                return reason
    return f"needs {needs}" if needs else ""


@rc_context(STYLE)
def _draw_card(
    grid: Grid,
    groups: dict[tuple[str, str], list[Twins]],
    verdicts: dict[tuple[str, str], list[Verdict]],
) -> Drawing:
    """Draw a row for each quantity and a column for each model, with the verdict in words."""
    shown = list(groups)[:MAX_MODELS]
    width = (WIDTH - LABEL_WIDTH) / max(2, len(shown))
    headings = [[*_wrap(own, width), *_wrap(f"against {twin}", width)] for own, twin in shown]
    head_height = LINE_HEIGHT * max(map(len, headings)) + 0.12
    figure = create_figure(head_height + ROW_HEIGHT * (len(ROWS) + 0.2))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(len(ROWS), -head_height / ROW_HEIGHT)
    for column, (key, heading) in enumerate(zip(shown, headings, strict=True)):
        left = LABEL_WIDTH + column * width
        axes.text(left + 0.05, -0.12, "\n".join(heading), va="bottom", fontsize=7.2, weight="bold")
        for row, verdict in enumerate(verdicts[key]):
            _draw_verdict(axes, left, row, width, verdict)
    _draw_labels(axes)
    seeds = format_count(len(grid.seeds), "seed")
    caption = (
        f"What a foundation model buys (blue, better) and costs (orange, worse) against a random "
        f"start. In each square: the verdict, the means over settings and {seeds}, and the "
        "difference with its 95 % interval over seeds. Grey: no difference was seen, or none can "
        "be. Rounds to target: to 90 % of the better final accuracy of the two; a run that does "
        "not reach it counts with one round more than it has."
    )
    if len(shown) < len(groups):
        caption += f" The first {len(shown)} of {len(groups)} comparisons are drawn."
    return export_figure("fm_card", figure, caption)


def _wrap(text: str, width: float) -> list[str]:
    return textwrap.wrap(text, max(16, int(width * 15)))


def _draw_labels(axes: Axes) -> None:
    """Write the criteria and quantities at the left, with a rule above each criterion."""
    for row, entry in enumerate(ROWS):
        first = row == 0 or ROWS[row - 1].criterion != entry.criterion
        if first:
            axes.plot([0, WIDTH], [row, row], color=GREY, lw=0.8, clip_on=False)
            axes.text(0, row + 0.5, entry.criterion, va="center", fontsize=8.2, weight="bold")
        label = describe_quantity(entry.quantity).label
        lines = textwrap.wrap(label, 24)
        axes.text(0.88, row + 0.5, "\n".join(lines), va="center", fontsize=7.6)


def _draw_verdict(axes: Axes, left: float, row: int, width: float, verdict: Verdict) -> None:
    """Draw one square: the word, then means and difference in small print."""
    missing = verdict.word == MISSING
    fill = FILLS.get(verdict.word, "white" if missing else PLAIN)
    square = (left + 0.02, row + 0.05), width - 0.04, 0.9
    axes.add_patch(Rectangle(*square, facecolor=fill, edgecolor="none"))
    weight = "bold" if verdict.word in FILLS else "normal"
    colour = GREY if missing else INK
    lines = [verdict.numbers, verdict.difference]
    one_line = width > 2.6 and all(lines)
    details = ["   ".join(lines)] if one_line else [line for line in lines if line]
    size = 5.9 if len(details) > 1 else 6.6
    details = [_cut(line, width, size) for line in details]
    step = 0.9 / (len(details) + 1)
    for i, line in enumerate([verdict.word, *details]):
        axes.text(
            left + 0.07,
            row + 0.05 + step * (i + 0.5),
            line,
            va="center",
            fontsize=7.4 if i == 0 else size,
            color=colour,
            weight=weight if i == 0 else "normal",
        )


def _cut(line: str, width: float, size: float) -> str:
    """Return a line of letters of some size in points, cut where it is wider than a square."""
    most = int(118 * width / size)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _build_numbers(verdicts: dict[tuple[str, str], list[Verdict]]) -> Table:
    """Return the same numbers as a table, which can be copied and read aloud."""
    rows = []
    for row, entry in enumerate(ROWS):
        for (model, twin), own in verdicts.items():
            verdict = own[row]
            label = describe_quantity(entry.quantity).label
            words = (entry.criterion, label, f"{model}, against {twin}", verdict.word)
            found = (verdict.numbers or UNDEFINED, verdict.difference or UNDEFINED)
            rows.append([*map(Cell, (*words, *found))])
    columns = ("verdict", "means", "difference, 95 % interval")
    heads = ("criterion", "quantity", "models")
    return build_table("Foundation model against random start", heads, columns, rows, False)


def _build_sources() -> Table:
    """Return the source of each row, the section of the page with its numbers, and its needs."""
    rows = [
        [*map(Cell, (describe_quantity(r.quantity).label, r.source, r.place, r.needs or UNDEFINED))]
        for r in ROWS
    ]
    columns = ("source of the comparison", "on this page", "needs")
    return build_table("Sources of the card", ("quantity",), columns, rows, False)
