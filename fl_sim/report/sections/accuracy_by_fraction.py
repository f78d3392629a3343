"""Accuracy against the share that is protected."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes

from fl_sim.report.components import Drawing, Section, build_figure_section
from fl_sim.report.formats import mean
from fl_sim.report.grid import FRACTION, Grid, Setting
from fl_sim.report.panels import (
    MAX_FRACTIONS,
    add_legend,
    choose_num_columns,
    create_panels,
    select_panels,
)
from fl_sim.report.spread_bars import describe_bars, draw_means
from fl_sim.report.style import COLOURS, GREY, INK, STYLE, export_figure

FRACTION_LINES = (
    ("A_all", "protection.a_all", GREY, ":", "D", "A_all: without protection"),
    ("A_clean", "protection.a_clean", COLOURS[2], "--", "s", "A_clean: clean part alone"),
    ("A_mix", "accuracy", COLOURS[0], "-", "o", "A_mix: clean and protected together"),
)


def build_accuracy_by_fraction(grid: Grid) -> Section | None:
    """Return the section, or None if there is nothing to draw."""
    title = "Accuracy against the protected share"
    return build_figure_section("fraction", title, draw_accuracy_against_fraction(grid))


@rc_context(STYLE)
def draw_accuracy_against_fraction(grid: Grid) -> Drawing | None:
    """Draw A_mix, A_clean and A_all against the share that is protected."""
    if FRACTION not in grid.axes or not grid.finished:
        return None
    panels, others = select_panels(grid, FRACTION)
    caption = (
        "Accuracy after the last round against the share that is protected. A_mix above A_clean: "
        "the model still learns from protected images; where the two meet, they add nothing. "
        "A_clean is not defined at 1, where nothing is clean."
    )
    caption += describe_bars(grid) + others
    columns, labels = choose_num_columns(grid, FRACTION), ("fraction protected", "accuracy, %")
    titles = [panel.title for panel in panels]
    figure, axes = create_panels(titles, columns, labels=labels, sharex=True, sharey=True)
    for panel, ax in zip(panels, axes, strict=True):
        for line in FRACTION_LINES:
            _draw_fraction_line(ax, panel.settings, *line[1:])
        if len(grid.axes[FRACTION]) <= MAX_FRACTIONS:
            ax.set_xticks([float(word) for word in grid.axes[FRACTION]])
    add_legend(figure, axes, "", [line[-1] for line in reversed(FRACTION_LINES)])
    return export_figure("accuracy_against_fraction", figure, caption)


def _draw_fraction_line(
    axes: Axes,
    settings: Sequence[Setting],
    column: str,
    colour: str,
    style: str,
    marker: str,
    label: str,
) -> None:
    points = sorted((float(s.values[FRACTION]), s.summary_values(column)) for s in settings)
    points = [(x, values) for x, values in points if mean(values) == mean(values)]
    draw_means(
        axes,
        [x for x, _ in points],
        [[100 * value for value in values] for _, values in points],
        color=colour,
        linestyle=style,
        marker=marker,
        label=label,
        markeredgecolor=INK if marker == "o" else colour,
        markeredgewidth=0.4,
    )
