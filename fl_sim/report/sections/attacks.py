"""Attacks: their threat models, accuracy per rule and attack, and the worst case per rule."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fl_sim.core.plugins import find_paragraph, read_docstring
from fl_sim.report.components import (
    Cell,
    Component,
    DefinitionList,
    Drawing,
    Section,
    Table,
    build_table,
)
from fl_sim.report.formats import (
    COUNT,
    PERCENT,
    POINTS,
    UNDEFINED,
    drop_undefined,
    mean,
)
from fl_sim.report.grid import Grid, Setting
from fl_sim.report.heat_map import GAP, draw_heat_map, label_columns, tabulate_means
from fl_sim.report.panels import MAX_PANELS, Panel, create_panels, group_panels
from fl_sim.report.setting_tables import (
    SummaryColumn,
    build_metric_cell,
    build_summary_table,
    has_summary,
)
from fl_sim.report.style import INK, STYLE, export_figure

RULE = "strategy"
COSTS: tuple[SummaryColumn, ...] = (
    ("accuracy", "accuracy", PERCENT),
    ("nobody attacks", "attack.a_honest", PERCENT),
    ("lost, points", "attack.accuracy_lost", POINTS),
    ("back after, rounds", "attack.recovery_rounds", COUNT),
)
BACKDOORS: tuple[SummaryColumn, ...] = (
    ("success of the start, %", "backdoor.start", PERCENT),
    ("at the end, %", "backdoor.success", PERCENT),
    ("without trigger, %", "backdoor.untriggered", PERCENT),
    ("half-life, rounds", "backdoor.half_life", COUNT),
)
THREAT = "Threat model: "
NO_ATTACK = "none"  # value of the axis without an attack
MAX_WIDTH = 28  # letters per line of a rule's name


def build_attacks(grid: Grid) -> Section | None:
    """Return the threat models of the attacks and the accuracies of the rules under them."""
    models = collect_threat_models(grid)
    has_success = any(s.final_values("attack_success").values for s in grid.finished)
    if not models and not has_success:
        return None
    components: list[Component] = [DefinitionList(models)] if models else []
    paragraphs = ["Threat models of the attacks:"] if models else []
    axis = find_attack_axis(grid)
    if axis is not None:
        paragraphs.append(
            "The worst case of a rule is the attack with the lowest mean accuracy after the last "
            "round. It is an upper bound of its accuracy under attack: a stronger attack may exist."
        )
        components += [_draw_heat_maps(grid, axis), _build_worst_cases(grid, axis)]
    if has_summary(grid, "attack.accuracy_lost"):
        caption = "Accuracy after the last round, and of the control in which nobody attacks, %"
        columns = [column for column in COSTS if has_summary(grid, column[1])]
        components.append(build_summary_table(grid, caption, columns))
    if has_success:
        caption = (
            "Backdoors: share of test images of other classes classified as the target class, %"
        )
        start = has_summary(grid, "backdoor.start")
        columns = [c for c in BACKDOORS if start or has_summary(grid, c[1])]
        components.append(build_summary_table(grid, caption, columns))
    if has_summary(grid, "backdoor.start"):
        paragraphs.append(
            "The start model has a backdoor, which clients inherit. Its half-life is the first "
            "evaluated round from which on its success is at most half of that of the start; a "
            "dash means that it outlives the run."
        )
    return Section("attacks", "Attacks", tuple(paragraphs), tuple(components))


def collect_threat_models(grid: Grid) -> tuple[tuple[str, str], ...]:
    """Return the name of every attack and the threat model in its docstring."""
    models: dict[str, str] = {}
    for setting in grid.finished:
        adversaries = setting.experiment.get("adversary") or []
        several = adversaries if isinstance(adversaries, list) else [adversaries]
        for path in (path for adversary in several for path in _list_classes(adversary["client"])):
            text = find_paragraph(read_docstring(path), THREAT)
            if text:  # else the class may no longer exist
                models.setdefault(path.split(".")[-1], text)
    return tuple(models.items())


def _list_classes(client: Mapping[str, Any]) -> list[str]:
    """Return the class paths of a client and of all parts in its fields."""
    parts = [value for value in client.values() if isinstance(value, Mapping) and "class" in value]
    return [str(client["class"]), *(path for part in parts for path in _list_classes(part))]


def find_attack_axis(grid: Grid) -> str | None:
    """Return the axis of the attacks if rules are varied as well."""
    axes = [axis for axis in ("adversary", "adversary.client") if axis in grid.axes]
    return axes[0] if axes and RULE in grid.axes else None


def _group_panels(grid: Grid, axis: str) -> list[Panel]:
    """Return the settings grouped by everything but rule and attack."""
    groups: dict[str, list[Setting]] = {}
    for panel in group_panels(grid, axis)[:MAX_PANELS]:
        for setting in panel.settings:
            others = {a: w for a, w in setting.values.items() if a not in (axis, RULE)}
            title = Setting(others, setting.cells, setting.rows, setting.folders).label
            groups.setdefault(title, []).append(setting)
    return [Panel(title, settings) for title, settings in groups.items()]


@rc_context(STYLE)
def _draw_heat_maps(grid: Grid, axis: str) -> Drawing:
    caption = (
        "Accuracy in percent after the last round, by rule and attack, mean over seeds. The last "
        "column is the worst case over the attacks; the frame marks the best of these."
    )
    panels, rules, attacks = _group_panels(grid, axis), grid.axes[RULE], grid.axes[axis]
    columns, height = 2 if len(attacks) <= 7 else 1, 1.5 + 0.36 * len(rules)
    figure, axes = create_panels([p.title for p in panels], columns, height, sharey=True)
    for panel, ax in zip(panels, axes, strict=True):
        values = tabulate_means(grid, panel.settings, RULE, axis)
        _draw_panel(ax, values, [attack != NO_ATTACK for attack in attacks])
        label_columns(ax, _shorten_names(attacks), "worst case")
        ax.set_yticks(range(len(rules)), [_wrap_name(rule) for rule in rules])
    return export_figure("rules_against_attacks", figure, caption)


def _draw_panel(axes: Axes, values: NDArray[np.float64], real: Sequence[bool]) -> None:
    """Draw the accuracies and the lowest of the `real` attacks, the best of which is framed."""
    worst = values[:, np.array(real)].min(1)  # NaN, unknown, if an attack is missing
    draw_heat_map(axes, values, worst)
    if not np.isnan(worst).all():
        corner = values.shape[1] + GAP - 0.5, float(np.nanargmax(worst)) - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=INK, linewidth=1.6))


def _shorten_names(attacks: Sequence[str]) -> list[str]:
    """Return the names of attacks without a common suffix.

    >>> _shorten_names(["none", "AlieClient, 2 clients", "SignFlipClient(scale=3.0), 2 clients"])
    ['no attack', 'Alie', 'SignFlip(scale=3.0)']
    """
    real = [attack for attack in attacks if attack != NO_ATTACK]
    tails = {_get_suffix(attack) for attack in real}
    names = [
        attack.removesuffix(_get_suffix(attack)) if len(tails) == 1 else attack for attack in real
    ]
    short = {a: n.replace("Client", "", 1) for a, n in zip(real, names, strict=True)}
    return [short.get(attack, "no attack") for attack in attacks]


def _wrap_name(rule: str) -> str:
    r"""Return the name of a rule with line breaks.

    >>> _wrap_name("NearestNeighborMixing(num_byzantine=2, rule=CoordinateMedian)")
    'NearestNeighborMixing(\nnum_byzantine=2,\nrule=CoordinateMedian)'
    """
    lines = [""]
    for piece in re.findall(r"[^(,]+[(,]? ?", rule):
        fits = len(lines[-1] + piece.strip()) <= MAX_WIDTH
        lines = [*lines[:-1], lines[-1] + piece] if fits else [*lines, piece]
    return "\n".join(line.strip() for line in lines if line)


def _get_suffix(attack: str) -> str:
    """Return the part after the attack itself: its number of clients and its rounds."""
    depth = 0
    for i, letter in enumerate(attack):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            return attack[i:]
    return ""


def _build_worst_cases(grid: Grid, axis: str) -> Table:
    """Return a table of each rule's worst attack and the accuracy under it."""
    attacks = [attack for attack in grid.axes[axis] if attack != NO_ATTACK]
    panels, rows = _group_panels(grid, axis), []
    for panel in panels:
        for rule in grid.axes[RULE]:
            by_attack = {s.values[axis]: s for s in panel.settings if s.values[RULE] == rule}
            title = [Cell(panel.title)] if len(panels) > 1 else []
            worst = _find_worst([by_attack.get(attack) for attack in attacks], axis)
            rows.append([*title, Cell(rule), *worst])
    heads = ["setting", "rule"] if len(panels) > 1 else ["rule"]
    return build_table("Worst case of each rule", heads, ["worst attack", "accuracy, %"], rows)


def _find_worst(settings: Sequence[Setting | None], axis: str) -> list[Cell]:
    """Return the attack with the lowest accuracy, and the accuracy, if every attack has one."""
    finished = [setting for setting in settings if setting is not None]
    if len(finished) < len(settings):
        return [Cell(UNDEFINED, "a run is missing")] * 2
    for setting in finished:  # without its accuracy the lowest is unknown
        if not drop_undefined(setting.summary_values("accuracy")):
            reason = setting.undefined_reason("accuracy") or "its accuracy is not defined"
            return [Cell(UNDEFINED, f"{setting.values[axis]}: {reason}")] * 2
    lowest = min(finished, key=lambda setting: mean(setting.summary_values("accuracy")))
    return [Cell(lowest.values[axis]), build_metric_cell(lowest, "accuracy", PERCENT)]
