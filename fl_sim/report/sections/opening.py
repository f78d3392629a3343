"""The opening of the page: the question, an answer made of the numbers, tiles and one figure."""

from dataclasses import replace

from fl_sim.report.components import Section, Tile, Tiles
from fl_sim.report.formats import (
    AREA,
    PERCENT,
    POINTS,
    NumberFormat,
    drop_undefined,
    format_count,
    format_number,
    mean,
)
from fl_sim.report.grid import FRACTION, Grid, Setting
from fl_sim.report.panels import group_panels
from fl_sim.report.sections.answer_figure import draw_answer
from fl_sim.report.sections.audits import describe_audits
from fl_sim.report.setting_tables import format_bounds
from fl_sim.report.verdicts import is_chance, judge_change

ACCURACY, WORST, AREA_NAME = "accuracy", "fairness.worst_client", "mia_margin_auc"
GAP, LOST, SUCCESS = "protection.utility_gap", "attack.accuracy_lost", "backdoor.success"
MOST = 5  # sentences
NO_CHANGE = 0.0005  # differences of accuracies that round to 0.0 points


def build_opening(grid: Grid) -> Section:
    """Return the answer in sentences, the headline numbers and the figure of the first screen."""
    sentences = (
        describe_protection(grid),
        describe_accuracy(grid),
        describe_attack(grid),
        describe_worst_client(grid),
        describe_audits(grid) or describe_membership(grid),
        describe_doubt(grid),
    )
    said = [sentence for sentence in sentences if sentence][:MOST]
    tiles = build_tiles(grid)
    drawing = draw_answer(grid)
    missing = () if drawing or not grid.finished else (NO_FIGURE,)
    components = (*((Tiles(tiles),) if tiles else ()), *((drawing,) if drawing else ()))
    return Section("answer", "", (" ".join(said), *missing), components)


NO_FIGURE = "There is no figure: the run was scored after its last round only."


def describe_protection(grid: Grid) -> str:
    """Return the cost of protecting the largest share, or the accuracy that such images add."""
    if FRACTION in grid.axes:
        return _describe_fractions(grid)
    added = [s for s in grid.finished if mean(s.summary_values(GAP)) == mean(s.summary_values(GAP))]
    added = [s for s in added if mean(s.summary_values("protection.a_clean")) > 0]
    if not added or all(mean(s.summary_values(GAP)) == 0 for s in added):
        return ""
    ranked = sorted(added, key=lambda setting: mean(setting.summary_values(GAP)))
    most, least = ranked[0], ranked[-1]
    first = format_number(-mean(most.summary_values(GAP)), POINTS)
    if most is least:
        doubt = _doubt(most, GAP, ", which is ")
        return (
            f"Protected images add {first} points to the accuracy of the clean part alone{doubt}."
        )
    last = format_number(-mean(least.summary_values(GAP)), POINTS)
    low, high = grid.name_settings(GAP, least, most)
    low, high = low + _doubt(least, GAP, ": "), high + _doubt(most, GAP, ": ")
    return (
        f"Protected images add between {last} points ({low}) and {first} points ({high}) to the "
        "accuracy of the clean part alone."
    )


def _doubt(setting: Setting, metric: str, before: str) -> str:
    """Return that a mean over seeds cannot be told from 0, in two words; empty if it can."""
    none = judge_change(setting.summary_values(metric))
    return f"{before}{none}" if none else ""


def _describe_fractions(grid: Grid) -> str:
    """Return the change of accuracy from the lowest to the highest protected share.

    Settings without a finished run at both are left out.
    """
    every = [float(setting.values[FRACTION]) for setting in grid.finished]
    start, end = min(every, default=0.0), max(every, default=0.0)
    falls: list[tuple[float, str, Setting]] = []
    for _, settings in group_panels(grid, FRACTION):
        ordered = sorted(settings, key=lambda setting: float(setting.values[FRACTION]))
        low, high = ordered[0], ordered[-1]
        before, after = (mean(s.summary_values(ACCURACY)) for s in (low, high))
        ends = [float(setting.values[FRACTION]) for setting in (low, high)]
        if start == end or ends != [start, end] or before != before or after != after:
            continue
        others = {axis: word for axis, word in high.values.items() if axis != FRACTION}
        falls.append((before - after, _change(before, after), replace(high, values=others)))
    if not falls:
        return ""
    opening = "With every image protected" if end == 1 else f"With {100 * end:g} % protected"
    opening += "" if start == 0 else f" in place of {100 * start:g} %"
    falls.sort(key=lambda fall: -fall[0])
    (_, most, worst), (_, least, best) = falls[0], falls[-1]
    if worst is best:
        name = grid.name_settings(ACCURACY, worst)[0]
        return f"{opening}, accuracy {most}{f' ({name})' if name else ''}."
    first, last = grid.name_settings(ACCURACY, worst, best)
    least = least.removeprefix(most.partition(" ")[0]).lstrip()  # the verb once, if it is the same
    return f"{opening}, accuracy {most} ({first}), and {least} ({last})."


def _change(before: float, after: float) -> str:
    low, high = format_number(before, PERCENT), format_number(after, PERCENT)
    if abs(before - after) < NO_CHANGE:
        return f"stays at {low} %"
    return f"{'falls' if after < before else 'rises'} from {low} % to {high} %"


def describe_accuracy(grid: Grid) -> str:
    """Return the highest and the lowest accuracy, or that of the only setting."""
    ranked = _rank(grid, ACCURACY)
    if not ranked:
        return "" if not grid.finished else "No accuracy is defined: see the notes of the table."
    best, worst = ranked[-1], ranked[0]
    high = _percent(best, ACCURACY)
    if best is worst:
        bounds = format_bounds(best, ACCURACY, PERCENT)
        return f"Accuracy after the last round is {high} %{f' {bounds}' if bounds else ''}."
    low = _percent(worst, ACCURACY)
    first, last = grid.name_settings(ACCURACY, best, worst)
    return f"Accuracy is highest at {high} % with {first} and lowest at {low} % with {last}."


def describe_attack(grid: Grid) -> str:
    """Return the cost of the attackers, and the success of their trigger."""
    words = ""
    if ranked := _rank(grid, LOST):
        cost = format_number(100 * mean(ranked[-1].summary_values(LOST)), NumberFormat())
        where = _where(grid, LOST, ranked[-1]) + _doubt(ranked[-1], LOST, ", which is ")
        words = f"The attackers cost {cost} points of accuracy{where}"
    if ranked := _rank(grid, SUCCESS):
        reached = f"their trigger succeeds on {_percent(ranked[-1], SUCCESS)} % of test images"
        reached += _where(grid, SUCCESS, ranked[-1]) if not words else ""
        words = f"{words}, and {reached}" if words else reached[0].upper() + reached[1:]
    return f"{words}." if words else ""


def describe_worst_client(grid: Grid) -> str:
    """Return the accuracy of the worst client, in the worst and in the best setting."""
    ranked = _rank(grid, WORST) if grid.has_clients else []
    if not ranked:
        return ""
    low, high = ranked[0], ranked[-1]
    own = mean(low.summary_values(ACCURACY)) - mean(low.summary_values(WORST))
    below = f"{format_number(own, PERCENT)} points below the accuracy of the model"
    if low is high:
        return f"The worst client reaches {_percent(low, WORST)} %, {below}."
    first, last = grid.name_settings(WORST, low, high)
    return (
        f"The worst client reaches {_percent(low, WORST)} % with {first}, {below}, and "
        f"{_percent(high, WORST)} % with {last}."
    )


def describe_membership(grid: Grid) -> str:
    """Return the success of telling members from non-members, against the chance level."""
    ranked = [s for s in _rank(grid, "leakage.auc") if all(s.final_values(AREA_NAME).valid)]
    if not ranked:
        return ""
    told = [setting for setting in ranked if not is_chance(setting, AREA_NAME)]
    most = ranked[-1]
    area = format_number(mean(most.summary_values("leakage.auc")), AREA)
    if not told:
        which = "" if len(ranked) == 1 else f" in any of {len(ranked)} settings"
        return (
            f"Membership cannot be told from chance{which}: the AUC is at most {area}, and its "
            "interval includes 0.5."
        )
    if len(ranked) == 1:
        return f"Membership leaks: the AUC of the attack is {area}, where guessing has 0.5."
    (name,) = grid.name_settings("leakage.auc", most)
    return (
        f"Membership leaks most with {name}, AUC {area}, where guessing has 0.5; in "
        f"{len(ranked) - len(told)} of {format_count(len(ranked), 'setting')} the interval "
        "includes chance."
    )


def describe_doubt(grid: Grid) -> str:
    """Return a caution about a sweep of a single seed."""
    if len(grid.seeds) > 1 or len(grid.finished) < 2:
        return ""
    return "Only one seed was run, so small differences between settings may be chance."


def build_tiles(grid: Grid) -> tuple[Tile, ...]:
    """Return the headline numbers with their intervals, and the settings they come from."""
    single = len(grid.finished) == 1
    tiles = []
    for name, column, metric, best, form, unit in (
        ("highest accuracy", ACCURACY, ACCURACY, -1, PERCENT, " %"),
        ("lowest accuracy", ACCURACY, ACCURACY, 0, PERCENT, " %"),
        ("worst client", WORST, "fairness_worst_client", 0, PERCENT, " %"),
        ("trigger succeeds", SUCCESS, "attack_success", -1, PERCENT, " %"),
        ("membership AUC", "leakage.auc", AREA_NAME, -1, AREA, ""),
    ):
        ranked = _rank(grid, column)
        if not ranked or (column == WORST and not grid.has_clients):
            continue
        if single and name == "lowest accuracy":
            continue
        setting = ranked[best]
        value = format_number(mean(setting.summary_values(column)), form) + unit
        note = "" if single else grid.name_settings(column, setting)[0]
        title = name.removeprefix("highest ") if single else name
        if column == "leakage.auc" and not single:
            title = f"highest {name}"
        bounds = format_bounds(setting, metric, form)
        hover = "" if single else setting.label
        tiles.append(Tile(title, value, bounds, note, hover))
    return tuple(tiles)


def _rank(grid: Grid, column: str) -> list[Setting]:
    """Return the settings with a number, lowest first."""
    known = [s for s in grid.finished if drop_undefined(s.summary_values(column))]
    return sorted(known, key=lambda setting: mean(setting.summary_values(column)))


def _percent(setting: Setting, column: str) -> str:
    return format_number(mean(setting.summary_values(column)), PERCENT)


def _where(grid: Grid, column: str, setting: Setting) -> str:
    several = len(grid.finished) > 1
    return f" at most ({grid.name_settings(column, setting)[0]})" if several else ""
