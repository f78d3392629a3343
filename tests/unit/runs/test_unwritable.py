"""Folders without permission, and links, are refused in one line before any work."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_sim import Experiment, run
from fl_sim.cli.result_commands import audit, report
from fl_sim.core.errors import RequestError
from fl_sim.core.locks import refuse_unreadable, refuse_unwritable

Maker = Callable[..., Experiment]


@pytest.mark.parametrize(
    "name", ["file", "file/below", "file/far/below", "n" * 300, "n" * 300 + "/below", "a\0b"]
)
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"^--out: cannot write to .*: \S") as caught:
        refuse_unwritable(tmp_path / name)
    assert "\0" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the root user may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for mode in (0o500, 0o000):
        (tmp_path / "own").chmod(mode)
        for name in ("own", "own/below", "own/far/below"):
            with pytest.raises(RequestError, match="Permission denied"):
                refuse_unwritable(tmp_path / name)
    (tmp_path / "own").chmod(0o700)


def test_a_folder_that_can_be_written_to_is_left_as_it_is(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "far" / "below")
    refuse_unwritable(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["n" * 300, "a\0b"])
def test_a_path_that_cannot_be_read_is_a_wrong_request(tmp_path: Path, name: str) -> None:
    for command in (refuse_unreadable, report, lambda path: audit(path, 0)):
        with pytest.raises(RequestError, match=r"cannot read .*: \S"):
            command(tmp_path / name)


@pytest.mark.parametrize("name", ["figures", "export"])
def test_figures_are_not_written_through_a_link(
    experiment: Maker, tmp_path: Path, name: str
) -> None:
    results = run(experiment(rounds=1), out=tmp_path / "out", controls=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.svg").write_text("precious")
    (results.path / name).symlink_to(elsewhere)
    with pytest.raises(RequestError, match=f"{name} is a symbolic link"):
        report(results.path)
    assert [path.name for path in elsewhere.iterdir()] == ["precious.svg"]
    (results.path / name).unlink()
    (results.path / name).touch()
    with pytest.raises(RequestError, match=rf"report: cannot write to .*{name}: Not a directory"):
        report(results.path)


def test_an_audit_is_not_written_through_a_link(experiment: Maker, tmp_path: Path) -> None:
    results = run(experiment(rounds=1), out=tmp_path / "out", controls=False)
    folder = results.path / str(results.cells.run_id[0])
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RequestError, match="is a symbolic link"):
        audit(results.path, tier=0)
    assert not list((tmp_path / "elsewhere").rglob("audit*"))
