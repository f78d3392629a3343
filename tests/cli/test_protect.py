"""The command `fl-sim protect`: killed half-way, it is continued to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "fl_sim", "protect"]
METHOD = ["--method", "lsp", "--set", "patch=8", "--seed", "7"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 colour images in two class folders."""
    folder, rng = tmp_path_factory.mktemp("photographs") / "in", np.random.default_rng(0)
    for index in range(400):
        path = folder / "ab"[index % 2] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    return folder


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def images_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


@pytest.mark.slow
def test_a_killed_call_is_continued_to_the_same_bytes(photographs: Path) -> None:
    whole, broken = photographs.parent / "whole", photographs.parent / "broken"
    done = call(photographs, *METHOD, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert "largest change" in done.stdout
    running = subprocess.Popen(
        [*COMMAND, str(photographs), *METHOD, "--out", str(broken)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    while running.poll() is None and len(images_of(broken)) < 40:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert 0 < len(images_of(broken)) < 400
    assert not (broken / "manifest.json").exists()
    assert call(photographs, *METHOD, "--out", broken).returncode == 0
    assert images_of(broken) == images_of(whole)
    checked = call("--check", broken)
    assert checked.returncode == 0
    assert "400 images are as protected: hashes, labels and radius" in checked.stdout


@pytest.mark.slow
def test_an_error_is_reported_in_one_line(photographs: Path) -> None:
    single = photographs.parent / "single" / "alice"
    single.mkdir(parents=True, exist_ok=True)
    for index in range(2):
        Image.new("RGB", (8, 8), index).save(single / f"{index}.png")
    for arguments, code, message in (
        ((single.parent, "--method", "em", "--out", "x"), 2, "error: INPUT: em cannot protect"),
        (("--out", "x"), 2, "error: protect needs an INPUT and --out DIR"),
        ((photographs, "--method", "nothing", "--out", "x"), 2, "error: --method: one of ar,"),
        (("--check", photographs), 2, "error: there is no "),
    ):
        done = call(*arguments)
        assert done.returncode == code
        assert done.stderr.startswith(message)
        assert len(done.stderr.splitlines()) == 1
