"""The content of the page of an experiment or of a study, read from its folder."""

from pathlib import Path
from typing import NamedTuple

from fl_sim.report import page, study
from fl_sim.report.components import Section
from fl_sim.report.grid import build_grid
from fl_sim.report.sections.overview import build_title
from fl_sim.results import load_results, load_study
from fl_sim.results.studies import SUMMARY as STUDY


class Content(NamedTuple):
    """Content of a page.

    Attributes:
        title: Title.
        sections: Sections.
        complete: Whether all runs have finished.
        question: Question of the experiment.
        damaged: One line for each file of the results that is damaged.
    """

    title: str
    sections: list[Section]
    complete: bool
    question: str
    damaged: tuple[str, ...] = ()


def read_content(path: Path) -> Content:
    """Return the content of the page of an experiment or of a study.

    Raises:
        RequestError: If there are no results.
    """
    if (path / STUDY).exists():
        found = load_study(path)
        sections = study.build_study_sections(found)
        return Content(path.name, sections, found.complete, "", found.damaged)
    results = load_results(path)
    grid = build_grid(results)
    title, sections = build_title(grid), page.build_sections(grid)
    return Content(title, sections, results.complete, results.question, results.damaged)
