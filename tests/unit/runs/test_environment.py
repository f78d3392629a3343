"""The recorded environment of a run."""

import shutil
import subprocess
from pathlib import Path

import pytest

from fl_sim.runs import environment


def a_repository(folder: Path) -> str:
    """Make a repository with one commit, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text("content")
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    told = ["git", "-C", str(folder), "describe", "--always"]
    return subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_of_a_project_is_not_that_of_fl_sim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "project" / "site-packages" / "fl_sim" / "engine" / "environment.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    commit = a_repository(tmp_path / "project")
    monkeypatch.setattr(environment, "__file__", str(installed))
    found = environment.describe_environment("local", tmp_path / "project")
    assert found["commit"] is None
    assert found["project_commit"] == commit
    assert environment.describe_environment("local", tmp_path)["project_commit"] is None


def test_switches_that_change_bits_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    found = environment.describe_environment("local")["switches"]
    assert found["MKL_CBWR"] == "COMPATIBLE"
    assert found["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert found["ATEN_CPU_CAPABILITY"] == "default"
