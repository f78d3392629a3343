"""Damaged result files: one line names the file, and the others are still read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.audit.session import audit
from fl_sim.cli import app
from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.report import tables
from fl_sim.results import FILES, RESULT, Results, load_results, run_folder
from fl_sim.runs.runner import sweep
from strategies.fedavg import FedAvg

ALL = (*FILES, RESULT)
RATES = [0.01, 0.1]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


SPOILS: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "missing": lambda content: None,
    "one bit": flipped,
    "junk": lambda content: b"\xff\xfe{[",
}


class Swept:
    """A sweep of two cells, one of which can be damaged and repaired."""

    def __init__(self, out: Path) -> None:
        self.experiment = Experiment(
            name="test",
            client=SgdClient(),
            strategy=FedAvg(),
            data=Data(dataset="digits", num_clients=2, num_samples=100, num_test=40),
            model=Model("linear"),
            rounds=1,
        )
        self.out = out
        self.results = self.again()
        self.ids = self.results.cells.run_id.tolist()

    def again(self) -> Results:
        axes = {"client.learning_rate": RATES}
        return sweep(self.experiment, axes, out=self.out, controls=False, batch_clients="off")

    def folder(self, which: int = 0) -> Path:
        return run_folder(self.out / "test", self.ids[which], 0)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return Swept(tmp_path_factory.mktemp("runs"))


def spoil(path: Path, how: Callable[[bytes], bytes | None]) -> bytes:
    """Damage a file, and return its former content."""
    before = path.read_bytes()
    after = how(before)
    if after is None:
        path.unlink()
    else:
        path.write_bytes(after)
    return before


@pytest.mark.parametrize("how", SPOILS)
@pytest.mark.parametrize("name", ALL)
def test_a_damaged_file_is_named_and_the_other_cells_are_reported(
    swept: Swept, name: str, how: str
) -> None:
    path = swept.folder() / name
    before = spoil(path, SPOILS[how])
    try:
        results = load_results(swept.out / "test")
        with pytest.raises(DamagedFileError) as caught:
            audit(swept.folder(), tier=0)
    finally:
        path.write_bytes(before)
    assert results.cells.status.tolist() == ["damaged", "finished"]
    assert not results.complete
    assert len(results.damaged) == 1
    assert str(path) in results.damaged[0]
    assert "\n" not in results.damaged[0]
    assert str(path) in results.cells.error[0]
    assert set(results.rows.run_id) == {swept.ids[1]}
    assert results.cells.accuracy.isna().tolist() == [True, False]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_a_file_of_another_run_is_noticed(swept: Swept, name: str) -> None:
    path, other = swept.folder() / name, swept.folder(1) / name
    if path.read_bytes() == other.read_bytes():
        return  # the same in both runs
    before = spoil(path, lambda content: other.read_bytes())
    try:
        results = load_results(swept.out / "test")
    finally:
        path.write_bytes(before)
    assert results.cells.status.tolist() == ["damaged", "finished"]
    assert name in results.damaged[0]


@pytest.mark.parametrize(("name", "how"), [(n, h) for h in ("cut", "missing") for n in ALL])
def test_a_sweep_repeats_a_damaged_cell_with_a_warning(
    swept: Swept, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = swept.folder() / name
    spoil(path, SPOILS[how])
    results = swept.again()
    assert results.complete
    assert results.cells.params_sha256.tolist() == swept.results.cells.params_sha256.tolist()
    assert [str(path) in line for line in caplog.messages] == [True]
    assert "the run is repeated" in caplog.text


def test_garbage_in_files_that_are_only_shown_is_ignored(swept: Swept) -> None:
    (swept.folder() / RESULT).unlink()
    (swept.folder() / "model.safetensors").unlink()
    (swept.folder() / "progress.jsonl").write_bytes(b"\xff\xfe\x00garbage\n" * 3)
    assert swept.again().complete


@pytest.mark.parametrize("how", ["cut", "empty", "one bit", "junk"])
def test_a_damaged_summary_is_reported_in_one_line(swept: Swept, how: str) -> None:
    path = swept.out / "test" / "summary.json"
    before = spoil(path, SPOILS[how])
    try:
        done = CliRunner().invoke(app, ["report", str(swept.out / "test")])
    finally:
        path.write_bytes(before)
    assert isinstance(done.exception, DamagedFileError)
    assert str(path) in str(done.exception)


def read_with(swept: Swept, path: Path, content: dict[str, Any]) -> str:
    """Read the results with another content in a file; return the error, or an empty string."""
    before = path.read_bytes()
    path.write_text(json.dumps(content))
    try:
        tables.build_summary_table(load_results(swept.out / "test"))
    except DamagedFileError as error:
        return str(error)
    finally:
        path.write_bytes(before)
    return ""


UNLIKELY: tuple[Any, ...] = (None, [], "x", 3, {"a": {"b": []}}, [None], True)
FIELDS = ("run_id", "seed", "settings", "status", "accuracy", "leakage", "cost", "failures")


@pytest.mark.parametrize("name", [*FIELDS, "label", "seeds", "made_with"])
def test_a_summary_without_a_hash_is_read_or_refused_in_one_line(swept: Swept, name: str) -> None:
    path = swept.out / "test" / "summary.json"
    before = path.read_bytes()
    content = json.loads(before)
    del content["sha256"]
    for value in UNLIKELY:
        cells = [{**content["cells"][0], name: value}, *content["cells"][1:]]
        complaint = read_with(swept, path, {**content, "cells": cells})
        assert complaint.startswith(f"{path}: ") or not complaint, value


@pytest.mark.parametrize("name", ["cells", "controls", "files"])
@pytest.mark.parametrize("value", ["x", [1], [[]], 3, {"a": 1}])
def test_a_malformed_summary_is_reported_in_one_line(swept: Swept, name: str, value: Any) -> None:
    path = swept.out / "test" / "summary.json"
    before = path.read_bytes()
    content = {k: own for k, own in json.loads(before).items() if k != "sha256"}
    complaint = read_with(swept, path, {**content, name: value})
    assert str(path.parent) in complaint or not complaint


@pytest.mark.parametrize("name", ["accuracy", "cost", "failures", "rounds", "seed"])
def test_a_result_without_a_hash_is_kept_or_repeated(swept: Swept, name: str) -> None:
    path = swept.folder() / RESULT
    content = {k: own for k, own in json.loads(path.read_text()).items() if k != "sha256"}
    path.write_text(json.dumps({**content, name: {"a": [None]}}))
    results = swept.again()
    assert results.complete
    assert not results.damaged


@pytest.mark.parametrize("name", ["summary.json", RESULT, "rows.parquet", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_does_not_block(swept: Swept, name: str) -> None:
    path = (swept.out / "test" if name == "summary.json" else swept.folder()) / name
    path.rename(path.with_suffix(".kept"))
    os.mkfifo(path)
    try:
        if name == "summary.json":
            with pytest.raises(DamagedFileError, match="no regular file"):
                load_results(swept.out / "test")
        else:
            assert f"{path}: cannot be read" in load_results(swept.out / "test").damaged[0]
    finally:
        path.with_suffix(".kept").replace(path)


@pytest.mark.parametrize("how", SPOILS)
def test_a_damaged_table_of_all_rows_is_rebuilt(swept: Swept, how: str) -> None:
    path, whole = swept.out / "test" / "rows.parquet", load_results(swept.out / "test")
    before = spoil(path, SPOILS[how])
    try:
        results = load_results(swept.out / "test")
    finally:
        path.write_bytes(before)
    pd.testing.assert_frame_equal(results.rows, whole.rows)
    assert str(path) in results.damaged[0]


def test_results_of_an_earlier_version_are_read(swept: Swept) -> None:
    root = swept.out / "test"
    paths = [root / "summary.json", swept.folder() / RESULT, swept.folder(1) / RESULT]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        path.write_text(json.dumps(without_hashes(json.loads(path.read_text()))))
    try:
        results, again = load_results(root), swept.again()
        assert results.complete
        assert not results.damaged
        assert audit(swept.folder(), tier=0) is not None
        assert again.cells.wall_seconds.tolist() == results.cells.wall_seconds.tolist()
    finally:
        for path, content in zip(paths, before, strict=True):
            path.write_bytes(content)


def without_hashes(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in ("files", "sha256")}
        return {key: without_hashes(own) for key, own in kept.items()}
    return [without_hashes(own) for own in value] if isinstance(value, list) else value


@pytest.mark.usefixtures("blank_figures")
def test_the_commands_end_with_1_and_report_the_rest(swept: Swept) -> None:
    path = swept.folder() / "signals.parquet"
    before = spoil(path, SPOILS["one bit"])
    try:
        for command in (["report", str(swept.out)], ["audit", str(swept.out), "--tier", "0"]):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 1, done.output
            assert isinstance(done.exception, SystemExit)
            assert any(str(path) in line for line in done.stderr.splitlines())
    finally:
        path.write_bytes(before)
    assert (swept.folder(1) / "audit.json").exists()
    assert "damaged" in (swept.out / "test" / "report.html").read_text()


def test_a_damaged_audit_is_left_out_and_named(swept: Swept) -> None:
    audit(swept.folder(1), tier=0)
    for name in ("audit.json", "audit.parquet", "audit_records.parquet"):
        path = swept.folder(1) / name
        before = spoil(path, SPOILS["one bit"])
        results = load_results(swept.out / "test")
        path.write_bytes(before)
        assert name in results.damaged[0]
        assert results.complete
