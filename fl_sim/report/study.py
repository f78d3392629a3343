"""What a study measured: a table in the terminal, and a page with figures."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.table import Table

from fl_sim.core.atomic_io import write_text
from fl_sim.report.components import Cell, DefinitionList, Drawing, Section, build_table
from fl_sim.report.formats import UNDEFINED, drop_undefined, format_count, mean, spread
from fl_sim.report.page import render_html, write_figures
from fl_sim.report.panels import create_panels
from fl_sim.report.sections.images import draw_image
from fl_sim.report.style import COLOURS, GREY, STYLE, WIDTH, choose_colours, export_figure
from fl_sim.results.studies import StudyResults, read_images

MAX_COLUMNS = 6  # numbers that have room side by side
MIN_STEPS = 3  # numbers on an axis, from which on lines say more than rows
MAX_LINES = 8
TILES, ACROSS = 24, 8  # images side by side: in the figure, and in one tile
LOG_SCALE_RATIO = 20  # times, from the smallest to the largest value


def build_study_table(results: StudyResults) -> Table:
    """Return every number, averaged over seeds."""
    axes, columns, rows = _arrange_table(results)
    made = Table(title=results.path.name, box=box.SIMPLE_HEAD, title_justify="left")
    for axis in axes:
        made.add_column(axis)
    for column in columns:
        made.add_column(column, justify="right")
    for row in rows:
        made.add_row(*row)
    return made


def _arrange_table(results: StudyResults) -> tuple[list[str], list[str], list[list[str]]]:
    """Return the heads of the settings, those of the numbers, and rows of both.

    A row is a point; or a number, where there are too many to stand side by side.
    """
    found, names = group_points(results), [name.replace("_", " ") for name in results.numbers]
    told = [
        [_format_values(own[f"numbers.{name}"]) for name in results.numbers] for _, own in found
    ]
    if len(names) <= max(MAX_COLUMNS, len(found)):
        rows = [[*words, *own] for (words, _), own in zip(found, told, strict=True)]
        return list(results.axes), names, rows
    turned = [[name, *own] for name, *own in zip(names, *told, strict=True)]
    return [", ".join(results.axes)], [", ".join(words) for words, _ in found], turned


def group_points(results: StudyResults) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Return the cells of each point, with its settings in words."""
    columns = [f"settings.{axis}" for axis in results.axes]
    if not columns:
        return [((), results.cells)]
    grouped = results.cells.groupby(columns, sort=False)
    return [(tuple(map(str, key)), own) for key, own in grouped]


def _format_values(values: "pd.Series[float]") -> str:
    """Return mean and spread with as many digits as tell them apart.

    And of how many seeds, where some have no number; "-" where none has.
    """
    own = [float(value) for value in values]
    middle, width = mean(own), spread(own)
    if middle != middle:
        return UNDEFINED
    there = len(drop_undefined(own))
    some = f" ({there}/{len(own)})" if there < len(own) else ""
    return (f"{middle:.4g}" if width != width else f"{middle:.4g} ± {width:.2g}") + some


def write_study_page(results: StudyResults) -> Path:
    """Write `report.html`, which needs no other file, and its figures; return where it is."""
    drawings = [
        d
        for d in (_draw_lines(results), _draw_rows(results), _draw_images(results))
        if d is not None
    ]
    write_figures(results.path / "figures", drawings)
    path = results.path / "report.html"
    sections = [_build_overview(results), *_figures(drawings), _build_numbers(results)]
    write_text(path, render_html(results.path.name, sections, complete=results.complete))
    return path


def _build_overview(results: StudyResults) -> Section:
    points_in_words = format_count(len(group_points(results)), "point")
    entries = [
        ("Measured", f"{points_in_words}, {format_count(len(results.seeds), 'seed')}"),
        *((f"Varied: {axis}", " | ".join(_list_values(results, axis))) for axis in results.axes),
        ("Machine", results.hardware),
        ("Time", _describe_time(results)),
        *(("Failed", error) for error in results.errors),
    ]
    return Section(
        "about", "What was measured", (results.question,), (DefinitionList(tuple(entries)),)
    )


def _describe_time(results: StudyResults) -> str:
    """Return the time of all points together; the clock holds for the machine's load as well."""
    clock = f"{results.seconds:.0f} seconds by the clock"
    used = results.cpu_seconds
    if used != used:
        return f"{clock}, all points together, which may have been side by side"
    return f"{used:.0f} CPU seconds, all points together; {clock}, points side by side counted each"


def _figures(drawings: list[Drawing]) -> list[Section]:
    return [Section("figures", "Figures", (), tuple(drawings))] if drawings else []


def _build_numbers(results: StudyResults) -> Section:
    axes, columns, rows = _arrange_table(results)
    about = "Mean and sample standard deviation over seeds; the spread is no confidence interval. "
    about += "-: not defined; (n/m): defined for n of m seeds."
    made = build_table("Every number", axes, columns, [list(map(Cell, row)) for row in rows])
    return Section("numbers", "Numbers", (about,), (made,))


def _list_values(results: StudyResults, axis: str) -> list[str]:
    return [str(word) for word in results.cells[f"settings.{axis}"].unique()]


def _choose_x_axis(results: StudyResults) -> str | None:
    """Return the axis along which lines are drawn: the longest that is all numbers."""
    found = {}
    for axis in results.axes:
        values = pd.to_numeric(results.cells[f"settings.{axis}"], errors="coerce")
        if not values.isna().any() and values.nunique() >= MIN_STEPS:
            found[axis] = values.nunique()
    return max(found, key=lambda axis: found[axis], default=None)


def _draw_lines(results: StudyResults) -> Drawing | None:
    """Draw every number against the longest axis of numbers, one line for all else."""
    along = _choose_x_axis(results)
    if along is None or not results.numbers:
        return None
    about = f"Every number against {along}: mean over seeds, bars of one standard deviation."
    return export_figure("numbers", _create_line_figure(results, along), about, about)


@rc_context(STYLE)
def _create_line_figure(results: StudyResults, along: str) -> Figure:
    names = results.numbers
    figure, panels = create_panels([n.replace("_", " ") for n in names], min(3, len(names)))
    others = [f"settings.{axis}" for axis in results.axes if axis != along]
    groups = results.cells.groupby(others, sort=False) if others else [((), results.cells)]
    lines = list(groups)[:MAX_LINES]
    palette = choose_colours(len(lines), ordered=False)
    for name, axes in zip(names, panels, strict=True):
        for (key, own), colour in zip(lines, palette, strict=True):
            _draw_line(axes, own, along, name, colour, ", ".join(map(str, key)))
        axes.set_xlabel(along)
        if axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(5))
    if others:
        handles, words = panels[0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside upper left", ncols=min(4, len(words)))
    return figure


def _draw_line(
    axes: Axes, own: pd.DataFrame, along: str, name: str, colour: str, word: str
) -> None:
    steps = pd.to_numeric(own[f"settings.{along}"])
    found = own[f"numbers.{name}"].groupby(steps)
    middle, width = found.mean(), found.std().fillna(0)
    axes.errorbar(
        middle.index, middle, width, color=colour, marker="o", capsize=2, elinewidth=0.9, label=word
    )
    positive = steps[steps > 0]
    if len(positive) and positive.max() / positive.min() >= LOG_SCALE_RATIO and (steps > 0).all():
        axes.set_xscale("log")


def _draw_rows(results: StudyResults) -> Drawing | None:
    """Draw every number as a row of dots a point, where nothing is a number along an axis."""
    if _choose_x_axis(results) is not None or len(group_points(results)) < 2 or not results.numbers:
        return None
    about = "Every number, a row a point: a dot is a seed, a stroke their mean."
    return export_figure("numbers", _create_row_figure(results), about, about)


@rc_context(STYLE)
def _create_row_figure(results: StudyResults) -> Figure:
    found = group_points(results)
    names = results.numbers
    columns = min(3, len(names))
    titles = [n.replace("_", " ") for n in names]
    figure, panels = create_panels(titles, columns, height=0.22 * len(found) + 0.9, sharey=True)
    for name, axes in zip(names, panels, strict=True):
        for row, (_, own) in enumerate(found):
            values = own[f"numbers.{name}"]
            axes.plot(values, [row] * len(values), "o", color=COLOURS[0], alpha=0.6)
            axes.plot([values.mean()], [row], "|", color=GREY, markersize=11)
        axes.set_yticks(range(len(found)), [", ".join(words) for words, _ in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
    return figure


def _draw_images(results: StudyResults) -> Drawing | None:
    """Draw the images of the first seed, a tile a point."""
    found = read_images(results)
    if not found:
        return None
    kinds = list(next(iter(found.values())))
    about = f"Images of seed {results.seeds[0]}. In each tile, from above: {', '.join(kinds)}."
    return export_figure("images", _create_tile_figure(found), about, about)


@rc_context(STYLE)
def _create_tile_figure(found: dict[str, dict[str, UInt8[np.ndarray, "_ c _ _"]]]) -> Figure:
    tiles = {point: build_tile(list(kinds.values())) for point, kinds in found.items()}
    widest = max(len(images) for kinds in found.values() for images in kinds.values())
    columns = max(1, min(len(tiles), TILES // min(widest, ACROSS)))
    shape = max((own.shape[1:] for own in tiles.values()), key=lambda own: own[0])
    height = min(4.0, WIDTH / columns * shape[0] / shape[1] + 0.35)
    figure, panels = create_panels(list(tiles), columns)
    figure.set_figheight(height * -(-len(tiles) // columns))
    for axes, own in zip(panels, tiles.values(), strict=True):
        draw_image(axes, own)
        axes.set_anchor("NW")
    return figure


def build_tile(kinds: list[UInt8[np.ndarray, "_ c _ _"]]) -> UInt8[np.ndarray, "c h2 w2"]:
    """Return the first images of each kind as one: a row a kind, white where there is none."""
    rows = [
        np.concatenate([_add_border(image) for image in images[:ACROSS]], 2) for images in kinds
    ]
    widest = max(row.shape[2] for row in rows)
    padded = [
        np.pad(r, ((0, 0), (0, 0), (0, widest - r.shape[2])), constant_values=255) for r in rows
    ]
    joined: UInt8[np.ndarray, "c h2 w2"] = np.concatenate(padded, 1)
    return joined


def _add_border(image: UInt8[np.ndarray, "c h w"]) -> UInt8[np.ndarray, "c h2 w2"]:
    """Return an image with a thin white edge."""
    return np.pad(image, ((0, 0), (1, 1), (1, 1)), constant_values=255)
