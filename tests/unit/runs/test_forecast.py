"""Forecasts of noise and runs: their arithmetic, and that they write nothing."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, run
from fl_sim.config.sweeps import GridCells, plan_cells
from fl_sim.contracts import Dataset
from fl_sim.core import pass_counter
from fl_sim.data.layout import Layout
from fl_sim.federation.federation import load_experiment_dataset
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.runs import forecast
from fl_sim.runs.progress import Progress, RunsLeft, report_passes
from fl_sim.runs.run_options import RunOptions
from tests.hand_clock import HandClock

Maker = Callable[..., Experiment]
EM = ErrorMinimizing(max_passes=2, surrogate_steps=2, noise_steps=2)


def done(key: str, number: int, rounds: int = 10, seconds: float = 2.0) -> Progress:
    return Progress(key, key, number, rounds, 4, 0.5, seconds=seconds)


def test_runs_left_are_forecast_from_the_rounds_that_were_run() -> None:
    clock = HandClock()
    runs = RunsLeft(4, clock)
    assert math.isnan(runs.seconds_left)
    runs.add(done("kept", 10, seconds=0.0))  # had finished before
    assert (runs.finished, math.isnan(runs.seconds_left)) == (1, True)
    clock.now = 2.0
    runs.add(done("a", 1))
    assert runs.seconds_left == pytest.approx(2.0 * 29)  # 29 of 30 rounds
    clock.now = 20.0
    runs.add(done("a", 10))
    assert runs.finished == 2
    assert runs.seconds_left == pytest.approx(20.0 / 1 * 2)


def test_earlier_rounds_of_a_continued_run_do_not_count_as_fast() -> None:
    clock = HandClock()
    runs = RunsLeft(1, clock)
    clock.now = 3.0
    runs.add(done("a", 8, seconds=3.0))  # the first in this process; seven were run before
    assert runs.seconds_left == pytest.approx(6.0)


def test_reports_of_noise_have_its_total_and_the_time_left(
    experiment: Maker, tmp_path: Path
) -> None:
    clock, heard = HandClock(), list[Progress]()
    report = report_passes(experiment(), tmp_path, "a run", heard.append, clock)
    with pass_counter.count_passes(report):
        pass_counter.expect(1000)
        for second in (1.0, 2.0, 3.5, 9.0):
            clock.now = second
            pass_counter.count(100)
    assert [(p.noise_passes, p.noise_total) for p in heard] == [(200, 1000), (400, 1000)]
    assert heard[0].seconds_left == pytest.approx(8.0)  # a hundred passes in a second
    assert heard[1].seconds_left == pytest.approx(600 * 8 / 300)


def test_the_rate_of_passes_is_that_after_the_first_step(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, steps = HandClock(), list[int]()

    def make(self: Any, images: Any, labels: Any, ids: Any, seed: int) -> Any:
        for step in range(1000):
            pass_counter.count(64)
            clock.now += 5.0 if step == 0 else 0.25  # the first one is slow
            steps.append(step)
        return images

    monkeypatch.setattr(LinearSeparable, "protect", make)
    rows = torch.arange(len(digits.train_labels))
    rate = forecast.measure_pass_rate(LinearSeparable(), digits, rows, 1.0, clock)
    assert rate == pytest.approx(64 / 0.25)
    assert len(steps) == 1 + 4  # left unfinished after a second


def test_noise_without_a_network_has_no_rate(digits: Dataset) -> None:
    rows = torch.arange(20)
    assert math.isnan(forecast.measure_pass_rate(LinearSeparable(), digits, rows))


def test_the_time_of_noise_is_its_passes_over_the_rate(
    experiment: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path))
    asked = [experiment(protection=EM, layout=Layout(fraction=0.5), seed=seed) for seed in (0, 1)]
    asked.append(experiment(protection=LinearSeparable(), layout=Layout(fraction=0.5)))
    asked.append(experiment(protection=EM, layout=Layout(fraction=1.0)))  # the same noise
    asked.append(experiment())
    em, lsp = forecast.forecast_noise(asked, lambda protection, dataset, rows: 100.0)
    passes = 2 * (200 + 2 * 200)
    assert em.name.startswith("ErrorMinimizing")
    assert em[1:] == (2, 400, 2 * passes, 2 * passes / 100.0)
    assert lsp[1:] == (1, 200, 0, 0.0)


def make_grid(experiment: Maker, **fields: Any) -> GridCells:
    asked = experiment(protection=EM, layout=Layout(fraction=0.5), **fields)
    return plan_cells(asked, {"rounds": [2, 4]}, (0, 1))


def test_a_forecast_counts_what_is_left_and_writes_nothing(
    experiment: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(forecast, "NOISE_SECONDS", 0.0)
    grid, options = make_grid(experiment), RunOptions(out=tmp_path / "runs", resume=True)
    plan = forecast.forecast(grid, options)
    assert (plan.num_cells, plan.num_controls, plan.finished) == (4, 8, 0)
    assert plan.rounds == 3 * (2 + 2 + 4 + 4)
    ((_, parts, images, passes, seconds),) = plan.noise
    assert (parts, images, passes) == (2, 400, 2 * 1200)
    assert seconds > 0
    assert (plan.kinds, plan.measured) == (2, 2)
    assert 0 < plan.run_seconds < 60
    assert plan.seconds == pytest.approx(seconds + plan.run_seconds)
    assert list(tmp_path.rglob("*")) == []
    assert plan.describe()[0] == "runs: 4 cells and 8 controls, 0 finished, 12 to do"

    run(grid.cells[0].experiment, out=tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    plan = forecast.forecast(grid, options)
    assert plan.finished == 3  # a cell and its two controls
    assert sorted(tmp_path.rglob("*")) == before
    assert plan.noise[0].parts == 1
    assert forecast.forecast(grid, RunOptions(out=tmp_path / "runs")).finished == 0  # run again


def test_the_work_of_a_round_is_in_images_that_are_trained_on(experiment: Maker) -> None:
    data = Data(dataset="digits", num_clients=4, num_samples=200, num_test=60, held_out=0.0)
    asked = experiment(data=data, client=SgdClient(batch_size=10, local_epochs=3))
    dataset = load_experiment_dataset(asked)
    assert forecast.count_trained(asked, dataset) == pytest.approx(3 * 200, rel=0.1)


def test_rounds_that_cannot_be_timed_have_no_time() -> None:
    plan = forecast.Forecast(torch.device("cpu"), 1, 0, 0, (), 5, math.nan, 1, 0, 1)
    assert plan.describe()[-1] == "rounds: 5, not timed: no smaller run can be made"


def test_noise_and_rounds_are_shared_by_the_runs_side_by_side() -> None:
    noise = (forecast.NoiseForecast("SEM", 3, 600, 1_000_000, 3600.0),)
    plan = forecast.Forecast(torch.device("cpu"), 6, 4, 2, noise, 800, 7200.0, 9, 6, 2)
    assert plan.seconds == 5400
    assert plan.describe() == [
        "runs: 6 cells and 4 controls, 2 finished, 8 to do",
        "noise: SEM, 3 times, 600 images, at most 1,000,000 passes, 60 min",
        "rounds: 800, 2.0 h (timed for 6 of 9 kinds of runs)",
        "in all about 1.5 h on cpu, 2 runs side by side",
    ]
