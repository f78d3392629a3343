"""Writes the report of an experiment: one self-contained page, and its figures as files."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fl_sim.core.atomic_io import write_bytes, write_text
from fl_sim.report.components import DefinitionList, Drawing, Section
from fl_sim.report.glossary import select_report_terms
from fl_sim.report.grid import Grid, build_grid
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
from fl_sim.results import Results


def write_page(results: Results) -> Path:
    """Write `report.html`, which needs no other file, and `figures/*.svg` and `*.png`.

    Returns:
        Path of the page.
    """
    grid = build_grid(results)
    sections = build_sections(grid)
    drawings = [c for s in sections for c in s.components if isinstance(c, Drawing)]
    write_figures(results.path / "figures", drawings)
    path = results.path / "report.html"
    title, question = overview.build_title(grid), results.question
    write_text(path, render_html(title, sections, results.complete, question))
    return path


def build_sections(grid: Grid) -> list[Section]:
    """Return the sections that have content, in the order of the page; details are folded."""
    sections = (build(grid) for build in SECTIONS)
    return [
        replace(section, folded=section.name not in UNFOLDED)
        for section in sections
        if section is not None
    ]


def render_html(title: str, sections: list[Section], complete: bool, question: str = "") -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    script = Path(__file__).with_name("page.js").read_text("utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return template.render(
        title=title,
        question=question,
        sections=sections,
        complete=complete,
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


def write_figures(folder: Path, drawings: list[Drawing]) -> None:
    """Write the figures, and remove those of an earlier page that are no longer on it."""
    folder.mkdir(exist_ok=True)
    for drawing in drawings:
        write_text(folder / f"{drawing.name}.svg", drawing.svg)
        write_bytes(folder / f"{drawing.name}.png", drawing.png)
    names = {drawing.name for drawing in drawings}
    for path in (*folder.glob("*.svg"), *folder.glob("*.png")):
        if path.stem not in names:
            path.unlink()
