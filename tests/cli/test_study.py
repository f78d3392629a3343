"""Studies: measured once per seed, kept, resumed, reported, and compared with expectations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_sim.config.experiment_file import read as read_experiment
from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.core.errors import RequestError
from fl_sim.report import expected
from fl_sim.report.expected_table import render_table
from fl_sim.report.study import build_tile
from fl_sim.results.studies import load_study, read_images
from fl_sim.runs import study

FILE = '''"""Does one half of the other hold?

More words.
"""
import torch
from pathlib import Path
from typing import Any

AXES = {"size": [1, 2, 40], "how": {"plain": 1.0, "twice": 2.0}}
SEEDS = (0, 1)

def measure(seed, size, how):
    with Path(__file__).with_name("calls").open("a") as calls:
        calls.write("x")
    if size == 2 and how == 2.0 and seed == 1 and Path(__file__).with_name("broken").exists():
        raise ValueError("no [luck]")
    return {"area": how * size + seed, "seen": torch.full((9, 1, 8, 8), 0.5)}
'''
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "halves.py"
    path.write_text(FILE)
    return path


def calls(file: Path) -> int:
    return len(file.with_name("calls").read_text())


def test_every_point_is_measured_once_per_seed_and_then_kept(file: Path) -> None:
    results = study.run(file, out=file.parent)
    assert results.complete
    assert len(results.cells) == calls(file) == 3 * 2 * 2
    assert results.axes == ["size", "how"]
    assert results.numbers == ["area"]
    assert results.question == "Does one half of the other hold?"
    row = results.cells.query("`settings.size` == '40' and `settings.how` == 'twice' and seed == 1")
    assert float(row["numbers.area"].iloc[0]) == 81.0
    study.run(file, out=file.parent)
    assert calls(file) == 12
    study.run(file, out=file.parent, resume=False)
    assert calls(file) == 24


def test_an_edited_file_is_measured_again(file: Path) -> None:
    study.run(file, (0,), out=file.parent)
    file.write_text(FILE.replace("how * size", "how * size * 2"))
    again = study.run(file, (0,), out=file.parent)
    assert calls(file) == 12
    assert again.cells["numbers.area"].max() == 160.0


def test_a_file_that_is_edited_during_the_study_stops_it(file: Path) -> None:
    edit = "    Path(__file__).write_text(Path(__file__).read_text() + '#')\n    if size == 2"
    file.write_text(FILE.replace("    if size == 2", edit))
    results = study.run(file, out=file.parent)
    assert calls(file) == 1
    assert results.cells["numbers.area"].notna().sum() == 1
    assert len(results.errors) == 11
    assert results.errors[0].endswith("halves.py was edited while it was measured")


def test_points_of_another_device_or_mode_are_measured_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.run(file, (0,), out=file.parent)
    monkeypatch.setattr(study, "is_portable", lambda: True)
    study.run(file, (0,), out=file.parent)
    assert calls(file) == 12
    study.run(file, (0,), out=file.parent)
    assert calls(file) == 12
    monkeypatch.undo()
    study.run(file, (0,), out=file.parent)
    assert calls(file) == 18


def test_workers_give_the_same_numbers(file: Path) -> None:
    alone = study.run(file, out=file.parent / "one")
    many = study.run(file, out=file.parent / "two", workers=2)
    assert alone.cells["numbers.area"].tolist() == many.cells["numbers.area"].tolist()


def test_a_point_that_raises_is_recorded_and_the_others_continue(file: Path) -> None:
    file.with_name("broken").touch()
    errors = []
    results = study.run(
        file, out=file.parent, on_point_end=lambda point, error: errors.append(error)
    )
    assert not results.complete
    assert results.errors == ("{'size': '2', 'how': 'twice'}: ValueError: no [luck]",)
    assert len(errors) == 12
    assert results.cells["numbers.area"].notna().sum() == 11
    file.with_name("broken").unlink()
    assert study.run(file, out=file.parent).complete
    assert calls(file) == 13


def test_the_command_writes_a_report_and_prints_errors(file: Path, fl_sim: Call) -> None:
    file.with_name("broken").touch()
    code, out, err = fl_sim("study", str(file), "--out", str(file.parent), "--workers", "1")
    assert code == 1
    assert "no [luck]" in out + err
    page = (file.parent / "halves" / "report.html").read_text()
    assert "Does one half of the other hold?" in page
    assert {p.name for p in (file.parent / "halves" / "figures").glob("*.svg")} == {
        "numbers.svg",
        "images.svg",
    }
    (file.parent / "halves" / "report.html").unlink()
    code, *_ = fl_sim("report", str(file.parent))
    assert code == 0
    assert (file.parent / "halves" / "report.html").exists()


def test_a_study_without_results_reports_the_errors(file: Path, fl_sim: Call) -> None:
    file.write_text(FILE.replace("    if size == 2", "    raise OSError('gone')\n    if size == 2"))
    code, out, err = fl_sim("study", str(file), "--out", str(file.parent), "--workers", "1")
    assert code == 1
    assert (out + err).count("OSError: gone") == 12
    assert "gone" in (file.parent / "halves" / "report.html").read_text()


def test_images_are_kept_by_point(file: Path) -> None:
    results = study.run(file, out=file.parent)
    images = read_images(results)
    assert len(images) == 6
    assert images["size 1, plain"]["seen"].shape == (9, 1, 8, 8)
    assert set(images["size 1, plain"]["seen"].flatten().tolist()) == {128}


def test_a_tile_has_a_row_per_kind() -> None:
    few, many = np.zeros((1, 1, 4, 4), np.uint8), np.zeros((9, 1, 4, 4), np.uint8)
    joined = build_tile([few, many])
    assert joined.shape == (1, 12, 8 * 6)
    assert int((joined == 0).sum()) == 16 + 8 * 16


def test_results_of_a_study_can_be_recorded_as_expected(file: Path, fl_sim: Call) -> None:
    study.run(file, out=file.parent)
    path = file.with_name("halves.expected.json")
    code, *_ = fl_sim("expected", "record", str(path), "--minutes", "1", "--out", str(file.parent))
    assert code == 0
    content = json.loads(path.read_text())
    assert content["command"] == "fl-sim study experiments/halves.py"
    entry = content["numbers"][-1]
    assert entry["settings"] == {"size": "40", "how": "twice"}
    assert (entry["number"], entry["mean"]) == ("area", 80.5)
    assert entry["tolerance"] == pytest.approx(0.03 * 80.5, abs=1e-3)
    assert fl_sim("expected", "compare", str(path), "--out", str(file.parent))[0] == 0
    content["numbers"][-1]["mean"] = 90.0
    path.write_text(json.dumps(content))
    code, out, err = fl_sim("expected", "compare", str(path), "--out", str(file.parent))
    assert code == 1
    assert "area 80.5000, expected 90.0000" in out + err
    table = render_table(json.loads(path.read_text()), expected.NUMBERS)
    assert "| 1 | plain | 1.500 ± 0.707 |" in table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AXES = {}", "has no function measure, so it is not a study"),
        ("AXES = {'a': [1]}\ndef measure(seed, b): ...", "measure takes seed and ['a']"),
        ("def measure(seed:", "never closed"),
    ],
)
def test_a_file_that_is_not_a_study_is_refused_before_any_work(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "no.py"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        study.run(path, out=tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "no").exists()


def test_a_study_is_not_an_experiment_and_missing_results_are_reported(
    file: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="it is a study: fl-sim study"):
        read_experiment(file)
    with pytest.raises(RequestError, match="no results"):
        load_study(tmp_path / "nothing")


@pytest.mark.parametrize(
    "change",
    [
        {"cells": []},
        {"cells": "x"},
        {"cells": [3]},
        {"question": None},
        {"environment": {}},
        {"environment": []},
        {"cell": {"settings": []}},
        {"cell": {"settings": {}}},
        {"cell": {"seed": "x"}},
        {"cell": {"folder": "../../elsewhere"}},
        {"cell": {"folder": "/etc"}},
        {"cell": {"folder": None}},
        {"cell": {"numbers": {"a": "x"}}},
        {"cell": {"numbers": []}},
        {"cell": {"seconds": "x"}},
        {"cell": {"error": []}},
    ],
)
def test_a_malformed_summary_is_reported_in_one_line(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    cells = [
        {"settings": {"axis": word}, "seed": 0, "folder": f"{word}/seed=0", "numbers": {"a": 1.0}}
        for word in ("one", "two")
    ]
    where = {"processor": "any", "torch": "2"}
    content = {"study": "own", "question": "Why?", "cells": cells, "environment": where}
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert load_study(tmp_path).complete
    cells[1] |= change.pop("cell", {})
    (tmp_path / "study.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(DamagedFileError, match=r"study\.json: "):
        load_study(tmp_path)


def test_a_point_that_fails_when_it_is_measured_again_does_not_keep_its_numbers(file: Path) -> None:
    assert study.run(file, out=file.parent).complete
    file.with_name("broken").touch()
    again = study.run(file, out=file.parent, resume=False)
    assert not again.complete
    assert again.cells["numbers.area"].notna().sum() == 3 * 2 * 2 - 1
