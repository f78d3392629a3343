"""Forecasts on the command line, and the sizes `--full` and `--small`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_sim.cli import execution

FILE = '''"""Does it take long?"""

from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.data.layout import Layout
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="long",
    data=Data(dataset="digits", num_clients=2, num_samples=100, num_test=60),
    protection=NOISE,
    layout=Layout(fraction=0.5),
    client=SgdClient(),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {"layout.fraction": [0.5, 1.0]}
FULL = {"data.num_samples": 120}
'''
SHORT = "StableErrorMinimizing(surrogate_steps=2, adversary_steps=1, transforms=2)"
Call = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(execution, "show", lambda results, terminal: None)  # the page takes long
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "long.py"
    path.write_text(FILE.replace("NOISE", SHORT))
    return path


def test_a_forecast_is_printed_and_nothing_is_written(fl_sim: Call, file: Path) -> None:
    done = fl_sim("sweep", file.name, "--forecast", "--workers", "1")
    assert done.code == 0, done.err
    assert "runs: 2 cells and 2 controls, 0 finished, 4 to do" in done.out
    sem = "noise: StableErrorMinimizing"
    (noise,) = [line for line in done.out.splitlines() if line.startswith(sem)]
    passes = 2 * 100 * (10 * 2 + 1 + 1) + 100 * 10 * 2
    assert f"once, 100 images, at most {passes:,} passes" in noise
    assert "rounds: 4, " in done.out
    assert "in all about" in done.out
    assert "on a GPU: not measured, since this machine has none" in done.out
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_full_size_is_forecast_before_it_runs(fl_sim: Call, file: Path) -> None:
    done = fl_sim("run", file.name, "--full", "--no-controls", "--workers", "1")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    (total,) = [n for n, line in enumerate(lines) if line.startswith("in all about")]
    (end,) = [n for n, line in enumerate(lines) if line.startswith("finished")]
    assert total < end
    assert "once, 120 images" in done.out
    done = fl_sim("run", file.name, "--full", "--no-controls", "--workers", "1", "--resume")
    assert "runs: 1 cells and 0 controls, 1 finished, 0 to do" in done.out


def test_the_small_size_is_for_noise_that_has_one(fl_sim: Call, file: Path) -> None:
    file.write_text(FILE.replace("NOISE", "StableErrorMinimizing()"))
    published = fl_sim("run", file.name, "--forecast", "--workers", "1").out
    small = fl_sim("run", file.name, "--small", "--forecast", "--workers", "1").out
    assert f"at most {5000 * 100 * (50 + 11) + 100 * 50:,} passes" in published
    assert f"at most {500 * 100 * (15 + 6) + 100 * 15:,} passes" in small
    file.write_text(FILE.replace("NOISE", "RandomNoise()"))
    done = fl_sim("run", file.name, "--small")
    assert done.code == 2
    assert "--small is for SEM and REM noise, and nothing here makes it" in done.err
