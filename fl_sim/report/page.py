"""Writes the report of an experiment: one self-contained page, and its figures as files."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fl_sim.core.atomic_io import write_bytes, write_text
from fl_sim.report import export
from fl_sim.report.components import DefinitionList, Drawing, Section
from fl_sim.report.glossary import select_report_terms
from fl_sim.report.grid import Grid, build_grid
from fl_sim.report.panels import MANY_SETTINGS
from fl_sim.report.sections import (
    accuracy_by_cost,
    accuracy_by_fraction,
    accuracy_grid,
    accuracy_over_rounds,
    attacks,
    audits,
    benefit,
    client_accuracy,
    client_classes,
    cost,
    environment,
    failures,
    fairness,
    fm_card,
    images,
    key_numbers,
    leakage,
    leakage_fairness,
    model_comparison,
    opening,
    overview,
    robustness,
    skipped,
    timeline,
    tradeoffs,
    twin_differences,
    update_shares,
)
from fl_sim.report.verdicts import LEGEND
from fl_sim.results import Results

Links = Mapping[int, Sequence[tuple[str, str]]]


class Live(NamedTuple):
    """State of runs that go on, in words, and the version of the page that shows them."""

    state: str
    version: int


def write_page(results: Results) -> Path:
    """Write `report.html`, which needs no other file, and its tables and figures as files.

    These are `figures/*.svg` and `*.png`, and the files in `export` that the page links to.

    Of a sweep with many settings there are neither `*.png` nor `*.pdf`, which take long.

    Returns:
        Path of the page.
    """
    grid = build_grid(results)
    sections = build_sections(grid)
    links = write_files(results.path, sections, slow=len(grid.settings) <= MANY_SETTINGS)
    path = results.path / "report.html"
    title, question = overview.build_title(grid), results.question
    write_text(path, render_html(title, sections, results.complete, question, links))
    return path


def build_sections(grid: Grid) -> list[Section]:
    """Return the sections that have content, in the order of the page; details are folded."""
    sections = (build(grid) for build in SECTIONS)
    return [
        replace(section, folded=section.name not in UNFOLDED)
        for section in sections
        if section is not None
    ]


def write_files(root: Path, sections: list[Section], slow: bool = True) -> Links:
    """Write the figures and the exported files of a page, and return its links to the latter.

    Args:
        root: Folder of the page.
        sections: Sections of the page.
        slow: Whether to write PDF and PNG, which take as long as all else; those that there are,
            are renewed in any case. A figure that has not changed is not written again.
    """

    def skip(part: export.Part, path: Path) -> bool:
        if not isinstance(part.content, Drawing):
            return False
        if not path.exists():
            return path.suffix == ".pdf" and not slow
        drawn = root / "figures" / f"{part.content.name}.svg"
        return drawn.exists() and drawn.read_text("utf-8") == part.content.svg

    parts, folder = export.list_parts(sections), root / export.FOLDER
    export.write_parts(folder, parts, skip)
    export.remove_others(folder, parts)
    drawings = [part.content for part in parts if isinstance(part.content, Drawing)]
    write_figures(root / "figures", drawings, png=slow)
    return export.list_links(folder, parts)


def render_html(
    title: str,
    sections: list[Section],
    complete: bool,
    question: str = "",
    links: Links = MappingProxyType({}),
    live: Live | None = None,
) -> str:
    """Return the page as HTML.

    Args:
        title: Title.
        sections: Sections.
        complete: Whether all runs finished.
        question: Question of the experiment.
        links: Format and address of the files of a table or figure, by its identity.
        live: For a page that is served while runs go on, and asks for changes.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    names = ("page.js", "watch.js") if live else ("page.js",)
    script = "".join(Path(__file__).with_name(name).read_text("utf-8") for name in names)
    digest = hashlib.sha256(script.encode()).digest()
    return template.render(
        title=title,
        question=question,
        sections=sections,
        complete=complete,
        live=live,
        links=lambda part: links.get(id(part), ()),
        legend=LEGEND,
        script=script,
        script_hash=base64.b64encode(digest).decode(),  # the only script that may run
    )


def build_glossary(grid: Grid) -> Section:
    """Return the definitions of the numbers on the page."""
    return Section("glossary", "Definitions", (), (DefinitionList(select_report_terms()),))


UNFOLDED = ("answer", "key")
SECTIONS: tuple[Callable[[Grid], Section | None], ...] = (
    opening.build_opening,
    key_numbers.build_key_numbers,
    failures.build_failures,
    overview.build_overview,
    fm_card.build_fm_card,
    accuracy_grid.build_accuracy_grid,
    timeline.build_timeline,
    accuracy_over_rounds.build_accuracy_over_rounds,
    attacks.build_attacks,
    accuracy_by_fraction.build_accuracy_by_fraction,
    model_comparison.build_model_comparison,
    twin_differences.build_twin_differences,
    tradeoffs.build_tradeoffs,
    accuracy_by_cost.build_accuracy_by_cost,
    client_accuracy.build_client_accuracy,
    update_shares.build_update_shares,
    client_classes.build_client_classes,
    leakage.build_leakage,
    audits.build_audits,
    fairness.build_fairness,
    leakage_fairness.build_leakage_fairness,
    benefit.build_benefit,
    robustness.build_robustness,
    images.build_images,
    cost.build_cost,
    skipped.build_skipped,
    build_glossary,
    environment.build_environment,
)


def write_figures(folder: Path, drawings: list[Drawing], *, png: bool = True) -> None:
    """Write the figures that changed, and remove those that are no longer on the page."""
    folder.mkdir(exist_ok=True)
    for drawing in drawings:
        path, picture = (folder / f"{drawing.name}.{form}" for form in ("svg", "png"))
        changed = not path.exists() or path.read_text("utf-8") != drawing.svg
        if (changed and picture.exists()) or (png and not picture.exists()):
            write_bytes(picture, drawing.render("png"))
        if changed:
            write_text(path, drawing.svg)
    names = {drawing.name for drawing in drawings}
    for path in (*folder.glob("*.svg"), *folder.glob("*.png")):
        if path.stem not in names:
            path.unlink()
