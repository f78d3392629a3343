"""The page: one file that holds everything, and every figure beside it."""

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fl_sim.core.atomic_io import write_bytes, write_text
from fl_sim.report import figures, measured
from fl_sim.report.glossary import report_terms
from fl_sim.report.grid import Grid, grid_of
from fl_sim.report.parts import Definitions, Drawing, Section
from fl_sim.report.sections import (
    about,
    attacks,
    audits,
    clients,
    crossed,
    exclusion,
    fairness,
    images,
    leakage,
    starts,
    timeline,
)
from fl_sim.results import Results


def write(results: Results) -> Path:
    """Write `report.html`, which needs no other file, and `figures/*.svg` and `*.png`.

    Returns:
        where the page is.
    """
    grid = grid_of(results)
    sections = sections_of(grid)
    drawings = [part for s in sections for part in s.parts if isinstance(part, Drawing)]
    write_figures(results.path / "figures", drawings)
    path = results.path / "report.html"
    write_text(path, render(about.title(grid), sections, complete=results.complete))
    return path


def sections_of(grid: Grid) -> list[Section]:
    """Return what there is to say, in the order of the page."""
    found = (build(grid) for build in SECTIONS)
    return [section for section in found if section is not None]


def render(title: str, sections: list[Section], complete: bool) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    return template.render(title=title, sections=sections, complete=complete)


def _crossed(grid: Grid) -> Section | None:
    title = f"Accuracy by {' and '.join(grid.heads)}"
    return _figure_section("crossed", title, crossed.crossed(grid))


def _rounds(grid: Grid) -> Section | None:
    return _figure_section("rounds", "Accuracy over rounds", figures.accuracy_over_rounds(grid))


def _timeline(grid: Grid) -> Section | None:
    return _figure_section("timeline", "Who did what when", *timeline.timelines(grid))


def _fraction(grid: Grid) -> Section | None:
    drawing = figures.accuracy_against_fraction(grid)
    return _figure_section("fraction", "Accuracy against the protected share", drawing)


def _bars(grid: Grid) -> Section | None:
    return _figure_section("clients", "Client by client", clients.accuracy_by_client(grid))


def _exclusion(grid: Grid) -> Section | None:
    drawing = exclusion.shares_over_rounds(grid)
    return _figure_section("exclusion", "Whose updates counted", drawing)


def _classes(grid: Grid) -> Section | None:
    return _figure_section("classes", "Who holds what", clients.classes_by_client(grid))


def _images(grid: Grid) -> Section | None:
    return _figure_section("images", "Protected images", *images.image_sheets(grid))


def _glossary(grid: Grid) -> Section:
    return Section("glossary", "How the numbers are defined", (), (Definitions(report_terms()),))


def _figure_section(name: str, title: str, *drawings: Drawing | None) -> Section | None:
    there = tuple(drawing for drawing in drawings if drawing is not None)
    return Section(name, title, (), there) if there else None


SECTIONS: tuple[Callable[[Grid], Section | None], ...] = (
    about.what_was_run,
    measured.headlines,
    _crossed,
    _timeline,
    _rounds,
    attacks.attacks,
    _fraction,
    starts.starts,
    _bars,
    _exclusion,
    _classes,
    leakage.leakage,
    audits.audits,
    fairness.fairness,
    fairness.privacy,
    fairness.benefit,
    _images,
    measured.cost,
    about.failures,
    _glossary,
    about.environment,
)


def write_figures(folder: Path, drawings: list[Drawing]) -> None:
    """Write the figures, and remove those of an earlier page that this one does not have."""
    folder.mkdir(exist_ok=True)
    for drawing in drawings:
        write_text(folder / f"{drawing.name}.svg", drawing.svg)
        write_bytes(folder / f"{drawing.name}.png", drawing.png)
    names = {drawing.name for drawing in drawings}
    for path in (*folder.glob("*.svg"), *folder.glob("*.png")):
        if path.stem not in names:
            path.unlink()
