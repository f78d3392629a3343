"""Results of an experiment are recorded, compared, and shown on a page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_sim.core.errors import RequestError
from fl_sim.report import expected


@pytest.fixture
def two_seeds(make_results: Any, sweep: Any) -> expected.MeasuredResults:
    results = make_results(sweep(axes={"layout.fraction": [0.0, 0.5]}, seeds=(0, 1)))
    out = results.path.parent
    return expected.load_measured(out / f"{results.path.name}.expected.json", out)


@pytest.fixture
def written(two_seeds: expected.MeasuredResults, tmp_path: Path) -> Path:
    path = tmp_path / "toy.expected.json"
    expected.record(path, two_seeds, minutes=1.25)
    return path


def test_the_means_are_those_of_the_cells(
    two_seeds: expected.MeasuredResults, written: Path
) -> None:
    numbers = json.loads(written.read_text())["numbers"]
    for fraction, cells in two_seeds.cells.groupby("settings.layout.fraction"):
        (entry,) = [
            e
            for e in numbers
            if e["settings"] == {"layout.fraction": fraction} and e["number"] == "accuracy"
        ]
        assert entry["mean"] == pytest.approx(cells.accuracy.mean(), abs=1e-4)
        assert entry["spread"] == pytest.approx(cells.accuracy.std(), abs=1e-4)


def test_a_number_that_some_seeds_lack_has_the_number_of_the_others(
    two_seeds: expected.MeasuredResults, tmp_path: Path
) -> None:
    cells = two_seeds.cells.copy()
    cells.loc[(cells["settings.layout.fraction"] == 0.5) & (cells["seed"] == 1), "accuracy"] = (
        np.nan
    )
    path = tmp_path / "toy.expected.json"
    expected.record(path, two_seeds._replace(cells=cells), minutes=1.0)
    numbers = [e for e in json.loads(path.read_text())["numbers"] if e["number"] == "accuracy"]
    assert [entry.get("seeds") for entry in numbers] == [None, 1]


def test_the_same_results_are_as_expected(
    two_seeds: expected.MeasuredResults, written: Path
) -> None:
    assert expected.compare(written, two_seeds) == []


@pytest.mark.parametrize(("precision", "end"), [("float32", "torch 2"), ("bf16", "torch 2, bf16")])
def test_the_hardware_tells_of_another_precision(
    make_results: Any, sweep: Any, precision: str, end: str
) -> None:
    results = make_results(sweep(axes={"layout.fraction": [0.0]}))
    folder = next(results.path.glob("*/*/"))
    environment = {"processor": "CPU", "torch": "2", "precision": precision}
    (folder / "environment.json").write_text(json.dumps(environment))
    out = results.path.parent
    measured = expected.load_measured(out / f"{results.path.name}.expected.json", out)
    assert measured.hardware == f"CPU, {end}"


def test_a_number_that_is_off_is_found(two_seeds: expected.MeasuredResults, written: Path) -> None:
    content = json.loads(written.read_text())
    content["numbers"][0]["mean"] += 2 * content["numbers"][0]["tolerance"]
    written.write_text(json.dumps(content))
    (deviation,) = expected.compare(written, two_seeds)
    assert deviation.number == content["numbers"][0]["number"]


def test_a_number_that_is_missing_is_found(
    two_seeds: expected.MeasuredResults, written: Path
) -> None:
    content = json.loads(written.read_text())
    content["numbers"][0]["settings"] = {"layout.fraction": 0.25}
    written.write_text(json.dumps(content))
    assert len(expected.compare(written, two_seeds)) == 1


def test_what_people_wrote_is_kept(two_seeds: expected.MeasuredResults, written: Path) -> None:
    content = json.loads(written.read_text()) | {"command": "make toy", "reported": ["x"]}
    written.write_text(json.dumps(content))
    expected.record(written, two_seeds, minutes=2.0)
    again = json.loads(written.read_text())
    assert (again["command"], again["reported"], again["minutes"]) == ("make toy", ["x"], 2.0)


TEXTS = {"topic": "toys", "images": "A few.", "answer": "It does.", "findings": ["Twice."]}
DOCSTRING = """Does it work?

Run:    fl-sim sweep experiments/toy.py
        on a larger machine: --full
Takes:  a minute
Two clients share the images.
"""


@pytest.fixture
def index(written: Path, tmp_path: Path) -> Path:
    """Return an index beside a described expected file and its experiment."""
    written.write_text(json.dumps(json.loads(written.read_text()) | TEXTS))
    (tmp_path / "toy.py").write_text(f'"""{DOCSTRING}"""')
    path = tmp_path / "docs" / "experiments.md"
    path.parent.mkdir()
    path.write_text("before\n<!-- toys -->\nold\n<!-- /toys -->\nafter\n")
    return path


def test_the_index_gets_a_line_between_the_marks(index: Path, tmp_path: Path) -> None:
    assert expected.write_pages(index, tmp_path) == ["toy"]
    lines = index.read_text().splitlines()
    assert lines[:2] == ["before", "<!-- toys -->"]
    assert lines[-3:] == [
        "| [toy](results/toy.md) | Does it work? | It does. |",
        "<!-- /toys -->",
        "after",
    ]
    assert "old" not in lines


def test_a_page_tells_question_answer_set_up_and_numbers(index: Path, tmp_path: Path) -> None:
    expected.write_pages(index, tmp_path)
    page = (index.parent / "results" / "toy.md").read_text()
    assert page.startswith("# toy\n\n*Does it work?*\n\nIt does.\n\n- Twice.\n")
    setup = page.partition("## Set-up\n\n")[2].partition("\n\n## ")[0]
    assert setup.startswith("Two clients share the images.\n\n- Command: `")
    assert "- Images: A few.\n- Seeds: 0, 1\n" in setup
    assert "| fraction | A_mix |" in page
    assert "We know of no published result" in page


def test_what_papers_report_stands_with_its_source(index: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy.expected.json"
    reported = {"claim": "It fails.", "source": "A paper", "why_ours_differs": "Ours is small."}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reported": [reported]}))
    expected.write_pages(index, tmp_path)
    page = (index.parent / "results" / "toy.md").read_text()
    assert "- It fails. *Source:* A paper. *Why ours differs:* Ours is small.\n" in page


def test_a_file_without_an_answer_is_refused(index: Path, written: Path, tmp_path: Path) -> None:
    content = json.loads(written.read_text())
    del content["answer"], content["topic"]
    written.write_text(json.dumps(content))
    with pytest.raises(RequestError, match="lacks topic, answer, which its page shows"):
        expected.write_pages(index, tmp_path)
    assert not (index.parent / "results").exists()


def test_a_topic_without_a_place_is_refused(index: Path, tmp_path: Path) -> None:
    index.write_text("nothing here\n")
    with pytest.raises(RequestError, match="has no mark <!-- toys -->"):
        expected.write_pages(index, tmp_path)
    assert index.read_text() == "nothing here\n"


def test_a_missing_file_is_a_wrong_request(
    two_seeds: expected.MeasuredResults, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="no file"):
        expected.compare(tmp_path / "none.expected.json", two_seeds)
