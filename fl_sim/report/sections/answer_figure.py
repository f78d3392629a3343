"""The figure of the first screen, chosen by what was varied."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fl_sim.report.components import Drawing
from fl_sim.report.formats import drop_undefined, mean
from fl_sim.report.grid import FRACTION, Grid, Setting, shorten_path
from fl_sim.report.heat_map import draw_heat_map, label_columns, tabulate_means
from fl_sim.report.panels import Panel, group_panels
from fl_sim.report.quantities import describe_quantity
from fl_sim.report.spread_bars import describe_bars, draw_means
from fl_sim.report.style import COLOURS, GREY, MARKERS, STYLE, create_figure, export_figure
from fl_sim.results.pareto import find_front

Vector = Float[np.ndarray, " settings"]
HEIGHT = 3.0  # inches; the figure stays within the first screen
FEW_ROWS = 12  # settings that have a row each
MIN_SQUARES, MAX_SQUARES = 3, 12  # values per axis of a heat map
OTHERS = ("leakage.auc", "cost.bytes", "cost.bytes_up", "cost.cpu_seconds")  # of a scatter plot
STEPS = 120  # of a scatter plot's width; dots in the same step lie on each other
NAME = "answer"


@rc_context(STYLE)
def draw_answer(grid: Grid) -> Drawing | None:
    """Draw accuracy by what was varied, or over the rounds of a single setting."""
    settings = [s for s in grid.finished if drop_undefined(s.summary_values("accuracy"))]
    if not settings:
        return None
    panels = group_panels(grid, FRACTION)
    if FRACTION in grid.axes and len(panels) <= len(COLOURS):
        return _draw_fractions(grid, panels)
    if len(settings) == 1:
        return _draw_rounds(settings[0]) if grid.has_history else None
    if _fits_heat_map(grid):
        return _draw_squares(grid)
    if len(settings) <= FEW_ROWS:
        return _draw_rows(grid, settings)
    return _draw_scatter(grid, settings)


def _draw_fractions(grid: Grid, panels: Sequence[Panel]) -> Drawing:
    figure = create_figure(HEIGHT)
    axes = figure.subplots()
    for place, (title, settings) in enumerate(panels):
        ordered = sorted(settings, key=lambda setting: float(setting.values[FRACTION]))
        x = [100 * float(setting.values[FRACTION]) for setting in ordered]
        values = [[100 * a for a in s.summary_values("accuracy")] for s in ordered]
        clean = [100 * mean(s.summary_values("protection.a_clean")) for s in ordered]
        colour, marker = COLOURS[place], MARKERS[place]
        label = grid.shorten(title) or "A_mix"
        draw_means(axes, x, values, color=colour, marker=marker, label=label)
        if np.isfinite(clean).any():
            axes.plot(x, clean, color=colour, linestyle="--", linewidth=1, alpha=0.7)
    axes.set(xlabel="images protected, %", ylabel="accuracy, %", xticks=sorted(set(x)))
    if len(panels) > 1:
        figure.legend(loc="outside right upper")
    caption = (
        "Accuracy after the last round against the share that is protected. Dashed: A_clean, from "
        "the clean part alone; a line above it shows that protected images still teach the model."
    )
    return export_figure(NAME, figure, caption + describe_bars(grid))


def _draw_rounds(setting: Setting) -> Drawing:
    figure = create_figure(HEIGHT)
    axes = figure.subplots()
    rows = setting.metric_rows("accuracy")
    by_round = rows.groupby("round")
    rounds, means = (
        by_round["round"].first().to_numpy(int),
        100 * by_round["value"].mean().to_numpy(float),
    )
    axes.plot(rounds, means, color=COLOURS[0], marker="o", label="accuracy")
    low, high = (100 * by_round[name].mean().to_numpy(float) for name in ("low", "high"))
    caption = "Accuracy on clean test images after every round."
    if np.isfinite(low).any():
        axes.fill_between(rounds, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
        caption += " Band: 95 % interval from the number of test images."
    worst = setting.metric_rows("fairness_worst_client").groupby("round")["value"].mean()
    if worst.notna().any():
        x, y = list(worst.index), 100 * worst.to_numpy(float)
        axes.plot(x, y, color=COLOURS[1], marker="s", linestyle="--", label="worst client")
    axes.set(xlabel="round", ylabel="accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper")
    return export_figure(NAME, figure, caption)


def _fits_heat_map(grid: Grid) -> bool:
    counts = [len(values) for values in grid.axes.values()]
    return len(counts) == 2 and all(MIN_SQUARES <= n <= MAX_SQUARES for n in counts)


def _draw_squares(grid: Grid) -> Drawing:
    across, down = grid.axes
    figure = create_figure(HEIGHT + 0.12 * max(0, len(grid.axes[down]) - 5))
    axes = figure.subplots()
    draw_heat_map(axes, tabulate_means(grid, grid.finished, down, across))
    label_columns(axes, grid.axes[across])
    axes.set_yticks(range(len(grid.axes[down])), grid.axes[down])
    axes.set(xlabel=shorten_path(across), ylabel=shorten_path(down))
    return export_figure(NAME, figure, "Accuracy in percent after the last round, mean over seeds.")


def _draw_rows(grid: Grid, settings: Sequence[Setting]) -> Drawing:
    figure = create_figure(HEIGHT if len(settings) < 9 else 3.4)
    axes = figure.subplots()
    places = np.arange(len(settings))
    finals = [setting.final_values("accuracy") for setting in settings]
    for place, setting, final in zip(places, settings, finals, strict=True):
        values = setting.summary_values("accuracy")
        lows, highs = drop_undefined(final.lows), drop_undefined(final.highs)
        if lows and highs:
            bounds = [100 * min(lows), 100 * max(highs)]
            axes.plot(bounds, [place, place], color=GREY, linewidth=5, alpha=0.35, marker="")
        dots = [100 * value for value in drop_undefined(values)]
        axes.plot(dots, [place] * len(dots), "o", color=COLOURS[0], label=setting.label, ms=5)
        a_all = 100 * mean(setting.summary_values("protection.a_all"))
        if a_all == a_all:
            axes.plot([a_all], [place], "D", color=COLOURS[1], label="A_all, nothing protected")
    axes.set_yticks(places, [grid.shorten(setting.label) for setting in settings])
    axes.set(xlabel="accuracy, %", ylim=(len(settings) - 0.5, -0.5))
    caption = "Accuracy after the last round, one dot per seed."
    if any(drop_undefined(final.lows) for final in finals):
        caption += " Grey: 95 % interval from the number of test images, over all seeds."
    if any(drop_undefined(s.summary_values("protection.a_all")) for s in settings):
        caption += " Diamonds: A_all, the same run with nothing protected."
    return export_figure(NAME, figure, caption)


def _draw_scatter(grid: Grid, settings: Sequence[Setting]) -> Drawing:
    """Draw accuracy against leakage or cost, with the settings that no other dominates marked."""
    known = [c for c in OTHERS if any(drop_undefined(s.summary_values(c)) for s in settings)]
    other = next((c for c in known if _differs(settings, c)), "cost.cpu_seconds")
    display = describe_quantity("mia_margin_auc" if other == "leakage.auc" else other)
    x = np.array([mean(s.summary_values(other)) for s in settings]) * display.form.scale
    y = np.array([100 * mean(setting.summary_values("accuracy")) for setting in settings])
    there = np.isfinite(x)
    settings = [setting for setting, has in zip(settings, there, strict=True) if has]
    x, y = x[there], y[there]
    figure = create_figure(HEIGHT)
    axes = figure.subplots()
    axis = next((a for a, words in grid.axes.items() if len(words) <= len(COLOURS)), None)
    words = grid.axes[axis] if axis else [""]
    names: dict[Artist, Sequence[str]] = {}
    for place, word in enumerate(words):
        chosen = [i for i, s in enumerate(settings) if axis is None or s.values[axis] == word]
        marker, colour = MARKERS[place], COLOURS[place]
        (dots,) = axes.plot(
            x[chosen], y[chosen], marker, color=colour, label=word, alpha=0.75, mec="white", mew=0.5
        )
        names[dots] = [settings[i].label for i in chosen]
    _count_hidden(axes, x, y)
    front = find_front(np.stack([-x, y], axis=1))
    order = np.argsort(x[front], kind="stable")
    axes.plot(x[front][order], y[front][order], color=GREY, marker="", linewidth=1, zorder=1)
    axes.set(xlabel=display.heading, ylabel="accuracy, %")
    if axis:
        figure.legend(loc="outside right upper", title=shorten_path(axis), alignment="left")
    best = [settings[i] for i in np.argsort(-y, kind="stable") if front[i]]
    named = "; ".join(grid.name_settings("accuracy", *best[:3]))
    caption = (
        f"Accuracy against {display.label}, one dot per setting, mean over seeds. The grey line "
        f"joins the {len(best)} settings of the Pareto front, which no other beats in both: "
        f"{named}{' and others' if len(best) > 3 else ''}. A small number counts settings that "
        "lie on each other."
    )
    return export_figure(NAME, figure, caption, names=names)


def _count_hidden(axes: Axes, x: Vector, y: Vector) -> None:
    """Write the number of dots beside those that cover others."""
    spots = np.stack([x, y], axis=1)
    width = np.ptp(spots, axis=0)
    steps = np.round(spots / np.where(width > 0, width, 1) * STEPS)
    _, first, counts = np.unique(steps, axis=0, return_index=True, return_counts=True)
    for place, count in zip(first[counts > 1], counts[counts > 1], strict=True):
        axes.annotate(
            str(count),
            (x[place], y[place]),
            (4, 3),
            textcoords="offset points",
            fontsize=6.5,
            color=GREY,
        )


def _differs(settings: Sequence[Setting], column: str) -> bool:
    values = drop_undefined([mean(setting.summary_values(column)) for setting in settings])
    return len(set(values)) > 1
