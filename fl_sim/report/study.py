"""Report of a study: a table for the terminal, and a page with figures."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.table import Table
from rich.text import Text

from fl_sim.core.atomic_io import write_text
from fl_sim.report.components import Cell, DefinitionList, Drawing, Section, build_table
from fl_sim.report.formats import UNDEFINED, drop_undefined, format_count, mean, spread
from fl_sim.report.page import render_html, write_files
from fl_sim.report.panels import create_panels
from fl_sim.report.sections.images import draw_image
from fl_sim.report.skipped import list_skipped
from fl_sim.report.style import COLOURS, GREY, STYLE, WIDTH, choose_colours, export_figure
from fl_sim.report.wide_table import WideTable
from fl_sim.results.studies import StudyResults, read_images

MAX_COLUMNS = 6  # numbers that fit side by side
MIN_STEPS = 3  # numbers on an axis from which lines are drawn instead of rows
MAX_LINES = 8
TILES, ACROSS = 24, 8  # images side by side: per figure, and per tile
LOG_SCALE_RATIO = 20  # ratio of the largest to the smallest value


def build_study_table(results: StudyResults) -> Table:
    """Return all numbers, averaged over seeds."""
    axes, columns, rows = _arrange_table(results)
    lines = Text(
        "\n".join(f"skipped: {line}" for line in list_skipped(results.skipped, results.seeds)),
        "not italic yellow",
    )
    made = WideTable(
        num_keys=len(axes),
        title=results.path.name,
        caption=lines or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for axis in axes:
        made.add_column(axis)
    for column in columns:
        made.add_column(column, justify="right")
    for row in rows:
        made.add_row(*row)
    return made


def _arrange_table(results: StudyResults) -> tuple[list[str], list[str], list[list[str]]]:
    """Return the heads of the settings, those of the numbers, and the rows.

    There is one row per point, or one per number if there are too many numbers for columns.
    """
    points, names = group_points(results), [name.replace("_", " ") for name in results.numbers]
    columns = [f"numbers.{name}" for name in results.numbers]
    numbers = [[_format_values(values[column]) for column in columns] for _, values in points]
    if len(names) <= max(MAX_COLUMNS, len(points)):
        rows = [[*words, *values] for (words, _), values in zip(points, numbers, strict=True)]
        return list(results.axes), names, rows
    by_number = [[name, *values] for name, *values in zip(names, *numbers, strict=True)]
    return [", ".join(results.axes)], [", ".join(words) for words, _ in points], by_number


def group_points(results: StudyResults) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Return the settings of each point as text, and its cells."""
    columns = [f"settings.{axis}" for axis in results.axes]
    if not columns:
        return [((), results.cells)]
    grouped = results.cells.groupby(columns, sort=False)
    return [(tuple(map(str, key)), cells) for key, cells in grouped]


def _format_values(values: "pd.Series[float]") -> str:
    """Return mean and spread with significant digits, or a dash if no seed has a number.

    The number of seeds is added if some have none.
    """
    numbers = [float(value) for value in values]
    middle, width = mean(numbers), spread(numbers)
    if middle != middle:
        return UNDEFINED
    num_known = len(drop_undefined(numbers))
    share = f" ({num_known}/{len(numbers)})" if num_known < len(numbers) else ""
    return (f"{middle:.4g}" if width != width else f"{middle:.4g} ± {width:.2g}") + share


def write_study_page(results: StudyResults) -> Path:
    """Write `report.html`, which needs no other file, and its figures; return its path."""
    sections = build_study_sections(results)
    path, links = results.path / "report.html", write_files(results.path, sections)
    write_text(path, render_html(results.path.name, sections, results.complete, links=links))
    return path


def build_study_sections(results: StudyResults) -> list[Section]:
    """Return the sections of the page of a study."""
    figures = (_draw_lines(results), _draw_rows(results), _draw_images(results))
    drawings = [drawing for drawing in figures if drawing is not None]
    return [_build_overview(results), *_figures(drawings), _build_numbers(results)]


def _build_overview(results: StudyResults) -> Section:
    points_in_words = format_count(len(group_points(results)), "point")
    entries = [
        ("Measured", f"{points_in_words}, {format_count(len(results.seeds), 'seed')}"),
        *((f"Varied: {axis}", " | ".join(_list_values(results, axis))) for axis in results.axes),
        ("Machine", results.hardware),
        ("Time", _describe_time(results)),
        *(("Failed", error) for error in results.errors),
        *(("Skipped", line) for line in list_skipped(results.skipped, results.seeds)),
    ]
    return Section(
        "about", "What was measured", (results.question,), (DefinitionList(tuple(entries)),)
    )


def _describe_time(results: StudyResults) -> str:
    """Return the total time of all points; clock time depends on the load of the machine."""
    clock = f"{results.seconds:.0f} seconds by the clock"
    cpu_seconds = results.cpu_seconds
    if cpu_seconds != cpu_seconds:
        return f"{clock}, summed over points, some of which may have run side by side"
    return f"{cpu_seconds:.0f} CPU seconds and {clock}, both summed over points"


def _figures(drawings: list[Drawing]) -> list[Section]:
    return [Section("figures", "Figures", (), tuple(drawings))] if drawings else []


def _build_numbers(results: StudyResults) -> Section:
    axes, columns, rows = _arrange_table(results)
    note = "Mean ± sample standard deviation over seeds, which is not a confidence interval. "
    note += "-: not defined; (n/m): defined for n of m seeds."
    made = build_table("All numbers", axes, columns, [list(map(Cell, row)) for row in rows])
    return Section("numbers", "Numbers", (note,), (made,))


def _list_values(results: StudyResults, axis: str) -> list[str]:
    return [str(word) for word in results.cells[f"settings.{axis}"].unique()]


def _choose_x_axis(results: StudyResults) -> str | None:
    """Return the axis along which lines are drawn: the longest numeric one, if any."""
    num_values = {}
    for axis in results.axes:
        values = pd.to_numeric(results.cells[f"settings.{axis}"], errors="coerce")
        if not values.isna().any() and values.nunique() >= MIN_STEPS:
            num_values[axis] = values.nunique()
    return max(num_values, key=lambda axis: num_values[axis], default=None)


@rc_context(STYLE)
def _draw_lines(results: StudyResults) -> Drawing | None:
    """Draw every number against the longest numeric axis, one line per setting of the others."""
    along = _choose_x_axis(results)
    if along is None or not results.numbers:
        return None
    caption = f"Every number against {along}: mean over seeds, with bars of one standard deviation."
    names = results.numbers
    figure, panels = create_panels([name.replace("_", " ") for name in names])
    others = [f"settings.{axis}" for axis in results.axes if axis != along]
    groups = results.cells.groupby(others, sort=False) if others else [((), results.cells)]
    lines = list(groups)[:MAX_LINES]
    palette = choose_colours(len(lines), ordered=False)
    for name, axes in zip(names, panels, strict=True):
        for (key, cells), colour in zip(lines, palette, strict=True):
            _draw_line(axes, cells, along, name, colour, ", ".join(map(str, key)))
        axes.set_xlabel(along)
        if axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(5))
    if others:
        handles, words = panels[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside upper left", ncols=min(4, len(words)))
    return export_figure("numbers", figure, caption)


def _draw_line(
    axes: Axes, cells: pd.DataFrame, along: str, name: str, colour: str, label: str
) -> None:
    steps = pd.to_numeric(cells[f"settings.{along}"])
    by_step = cells[f"numbers.{name}"].groupby(steps)
    middle, width = by_step.mean(), by_step.std().fillna(0)
    axes.errorbar(
        middle.index,
        middle,
        width,
        color=colour,
        marker="o",
        capsize=2,
        elinewidth=0.9,
        label=label,
    )
    positive = steps[steps > 0]
    if len(positive) and positive.max() / positive.min() >= LOG_SCALE_RATIO and (steps > 0).all():
        axes.set_xscale("log")


@rc_context(STYLE)
def _draw_rows(results: StudyResults) -> Drawing | None:
    """Draw every number as one row of dots per point, if no axis is numeric."""
    if _choose_x_axis(results) is not None or len(group_points(results)) < 2 or not results.numbers:
        return None
    caption = "Every number, one row per point: a dot is a seed, the stroke their mean."
    point_cells, names = group_points(results), results.numbers
    titles, height = [n.replace("_", " ") for n in names], 0.22 * len(point_cells) + 0.9
    figure, panels = create_panels(titles, height=height, sharey=True)
    for name, axes in zip(names, panels, strict=True):
        for row, (_, cells) in enumerate(point_cells):
            values = cells[f"numbers.{name}"]
            axes.plot(values, [row] * len(values), "o", color=COLOURS[0], alpha=0.6)
            axes.plot([values.mean()], [row], "|", color=GREY, markersize=11)
        axes.set_yticks(range(len(point_cells)), [", ".join(words) for words, _ in point_cells])
        axes.set_ylim(len(point_cells) - 0.5, -0.5)
    return export_figure("numbers", figure, caption)


@rc_context(STYLE)
def _draw_images(results: StudyResults) -> Drawing | None:
    """Draw the images of the first seed, one tile per point."""
    images_by_point = read_images(results)
    if not images_by_point:
        return None
    kinds = list(next(iter(images_by_point.values())))
    rows = ", ".join(kinds)
    caption = f"Images of seed {results.seeds[0]}. Rows of each tile, from the top: {rows}."
    tiles = {point: build_tile(list(kinds.values())) for point, kinds in images_by_point.items()}
    widest = max(len(images) for kinds in images_by_point.values() for images in kinds.values())
    columns = max(1, min(len(tiles), TILES // min(widest, ACROSS)))
    shape = max((tile_.shape[1:] for tile_ in tiles.values()), key=lambda tile_: tile_[0])
    height = min(4.0, WIDTH / columns * shape[0] / shape[1] + 0.35)
    figure, panels = create_panels(list(tiles), columns)
    figure.set_figheight(height * -(-len(tiles) // columns))
    for axes, tile_ in zip(panels, tiles.values(), strict=True):
        draw_image(axes, tile_)
        axes.set_anchor("NW")
    return export_figure("images", figure, caption)


def build_tile(kinds: list[UInt8[np.ndarray, "_ c _ _"]]) -> UInt8[np.ndarray, "c h2 w2"]:
    """Return the first images of each kind as one image, one row per kind, padded with white."""
    rows = [np.concatenate([*map(_add_border, images[:ACROSS])], 2) for images in kinds]
    widest = max(row.shape[2] for row in rows)
    padded = [
        np.pad(r, ((0, 0), (0, 0), (0, widest - r.shape[2])), constant_values=255) for r in rows
    ]
    joined: UInt8[np.ndarray, "c h2 w2"] = np.concatenate(padded, 1)
    return joined


def _add_border(image: UInt8[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c h2 w2"]:
    """Return an image with a thin white edge."""
    return np.pad(image, ((0, 0), (1, 1), (1, 1)), constant_values=255)
