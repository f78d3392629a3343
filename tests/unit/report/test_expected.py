"""What an experiment gave is written down, compared, and shown in README."""

import json
from pathlib import Path
from typing import Any

import pytest

from fl_sim.errors import RequestError
from fl_sim.report import expected


@pytest.fixture
def two_seeds(make_results: Any, sweep: Any) -> expected.Measured:
    results = make_results(sweep(axes={"layout.fraction": [0.0, 0.5]}, seeds=(0, 1)))
    out = results.path.parent
    return expected.measured(out / f"{results.path.name}.expected.json", out)


@pytest.fixture
def written(two_seeds: expected.Measured, tmp_path: Path) -> Path:
    path = tmp_path / "toy.expected.json"
    expected.record(path, two_seeds, minutes=1.25)
    return path


def test_the_means_are_those_of_the_cells(two_seeds: expected.Measured, written: Path) -> None:
    numbers = json.loads(written.read_text())["numbers"]
    for fraction, cells in two_seeds.cells.groupby("settings.layout.fraction"):
        (entry,) = [
            e
            for e in numbers
            if e["settings"] == {"layout.fraction": fraction} and e["number"] == "accuracy"
        ]
        assert entry["mean"] == pytest.approx(cells.accuracy.mean(), abs=1e-4)
        assert entry["spread"] == pytest.approx(cells.accuracy.std(), abs=1e-4)


def test_the_same_results_are_as_expected(two_seeds: expected.Measured, written: Path) -> None:
    assert expected.compare(written, two_seeds) == []


def test_a_number_that_is_off_is_found(two_seeds: expected.Measured, written: Path) -> None:
    content = json.loads(written.read_text())
    content["numbers"][0]["mean"] += 2 * content["numbers"][0]["tolerance"]
    written.write_text(json.dumps(content))
    (deviation,) = expected.compare(written, two_seeds)
    assert deviation.number == content["numbers"][0]["number"]


def test_a_number_that_is_missing_is_found(two_seeds: expected.Measured, written: Path) -> None:
    content = json.loads(written.read_text())
    content["numbers"][0]["settings"] = {"layout.fraction": 0.25}
    written.write_text(json.dumps(content))
    assert len(expected.compare(written, two_seeds)) == 1


def test_what_people_wrote_is_kept(two_seeds: expected.Measured, written: Path) -> None:
    content = json.loads(written.read_text()) | {"command": "make toy", "reported": ["x"]}
    written.write_text(json.dumps(content))
    expected.record(written, two_seeds, minutes=2.0)
    again = json.loads(written.read_text())
    assert (again["command"], again["reported"], again["minutes"]) == ("make toy", ["x"], 2.0)


def test_readme_gets_its_table_between_the_marks(written: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- toy -->\nold\n<!-- /toy -->\nafter\n")
    assert expected.write_readme(readme, tmp_path) == ["toy"]
    text = readme.read_text()
    assert text.startswith("before\n<!-- toy -->\n| settings | A_mix |")
    assert text.endswith("\n<!-- /toy -->\nafter\n")
    assert "old" not in text
    assert "fraction 0.5" in text


def test_a_readme_without_marks_stays_as_it_is(written: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing here\n")
    assert expected.write_readme(readme, tmp_path) == []
    assert readme.read_text() == "nothing here\n"


def test_a_missing_file_is_a_wrong_request(two_seeds: expected.Measured, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no file"):
        expected.compare(tmp_path / "none.expected.json", two_seeds)
