"""Every experiment file that is committed can be read, described and run in all its cells."""

import json
from functools import cache
from pathlib import Path

import pytest

from fl_sim.config.experiment_file import ExperimentFile, read
from fl_sim.config.sweeps import Cell, expand_cells
from fl_sim.core.errors import RequestError
from fl_sim.experiment import Experiment
from fl_sim.report import expected, reported
from fl_sim.results import run_folder
from fl_sim.runs import study

ROOT = Path(__file__).parents[2]
ALL = sorted((ROOT / "experiments").glob("*.py"))
STUDIES = [path for path in ALL if "\ndef measure(" in path.read_text()]
FILES = [path for path in ALL if path not in STUDIES]
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
every_study = pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)


@cache
def content_of(path: Path) -> ExperimentFile:
    """Return what a file names; read once, since nothing changes it."""
    return read(path)


@cache
def cells_in(path: Path) -> list[Cell]:
    """Return the cells of a file's first seed."""
    content = content_of(path)
    return expand_cells(content.experiment, content.axes, content.seeds[:1], skip=content.skip)


def test_there_are_experiments() -> None:
    assert "quickstart" in {path.stem for path in FILES}


@every_file
def test_an_experiment_is_named_after_its_file(path: Path) -> None:
    assert content_of(path).experiment.name == path.stem


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_an_experiment_opens_with_a_question(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith('"""')
    assert first.endswith("?")


@every_file
def test_an_experiment_survives_json(path: Path) -> None:
    experiment = content_of(path).experiment
    again = Experiment.from_json(experiment.to_json())
    assert again.to_json() == experiment.to_json()
    assert again.run_id == experiment.run_id


@every_file
def test_the_json_beside_results_is_an_experiment_file_too(path: Path, tmp_path: Path) -> None:
    experiment = content_of(path).experiment
    written = tmp_path / "experiment.json"
    written.write_text(experiment.to_json())
    content = read(written)
    assert content.experiment.run_id == experiment.run_id
    assert (dict(content.axes), content.seeds) == ({}, (experiment.seed,))


@every_file
def test_every_cell_can_be_built_and_survives_json(path: Path) -> None:
    cells = cells_in(path)
    distinct = {(cell.experiment.to_json()) for cell in cells}
    assert len(distinct) == len(cells)
    for cell in cells:
        text = cell.experiment.to_json()
        assert Experiment.from_json(text).to_json() == text
        assert json.dumps(cell.settings)


@every_file
def test_every_control_can_be_built(path: Path) -> None:
    for cell in cells_in(path):
        for control in cell.experiment.controls().values():
            assert Experiment.from_json(control.to_json()).run_id == control.run_id


@every_file
def test_seeds_do_not_change_the_name_of_a_run(path: Path) -> None:
    content = content_of(path)
    cells = expand_cells(content.experiment, {}, content.seeds)
    assert {cell.experiment.run_id for cell in cells} == {content.experiment.run_id}


@pytest.mark.parametrize(
    "path", [p for p in FILES if "\nFULL = " in p.read_text()], ids=lambda path: path.stem
)
def test_the_size_of_the_papers_can_be_had(path: Path) -> None:
    content = read(path, full=True)
    assert content.experiment.data.num_samples is None
    assert content.experiment.run_id != content_of(path).experiment.run_id
    assert expand_cells(content.experiment, content.axes, (0,), skip=content.skip)


def test_a_file_of_one_size_says_so() -> None:
    with pytest.raises(RequestError, match="names no FULL, so it has one size only"):
        read(ROOT / "experiments" / "quickstart.py", full=True)


@every_study
def test_every_point_of_a_study_has_its_own_folder(path: Path, tmp_path: Path) -> None:
    read_study = study.read(path)
    points = study.expand_points(read_study)
    folders = {run_folder(tmp_path, *point.key) for point in points}
    assert len(folders) == len(points) >= 3
    assert len(read_study.seeds) >= 3


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_documentation_has_a_page_and_a_line_for_every_experiment(path: Path) -> None:
    index = (ROOT / "docs" / "experiments.md").read_text()
    question = path.read_text().splitlines()[0].strip('"')
    assert f"| [{path.stem}](results/{path.stem}.md) | {question} |" in index
    assert (ROOT / "docs" / "results" / f"{path.stem}.md").exists()


def test_the_result_pages_are_what_the_expected_files_give(tmp_path: Path) -> None:
    docs = ROOT / "docs"
    index = tmp_path / "experiments.md"
    index.write_text((docs / "experiments.md").read_text())
    names = expected.write_pages(index, ROOT / "experiments")
    assert index.read_text() == (docs / "experiments.md").read_text(), "run make report"
    pages = {f"{name}.md" for name in names}
    assert {page.name for page in (docs / "results").iterdir()} == pages
    for page in pages:
        written = (tmp_path / "results" / page).read_text()
        assert written == (docs / "results" / page).read_text(), f"{page}: run make report"


def test_the_page_of_reported_tables_is_what_its_file_and_the_expected_files_give() -> None:
    page = reported.render_page(ROOT / "experiments")
    assert page == (ROOT / "docs" / f"{reported.NAME}.md").read_text(), "run make report"


@every_file
def test_a_result_page_names_the_images_that_are_trained_on(path: Path) -> None:
    data = content_of(path).experiment.data
    images = json.loads(path.with_suffix(".expected.json").read_text())["images"]
    if data.classes is None:
        assert ("60,000" if data.num_samples is None else f"{data.num_samples:,}") in images
        assert ("10,000" if data.num_test is None else f"{data.num_test:,}") in images
    alone = {1: "one client", 3: "one class per client"}
    assert alone.get(data.num_clients, f"over {data.num_clients} clients") in images
