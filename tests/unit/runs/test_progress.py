"""Progress of a run: lines in its folder and on standard output, trackers, a profile."""

import importlib.machinery
import importlib.util
import json
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients.sgd import SgdClient
from fl_sim import Experiment, cli, run, trackers
from fl_sim.contracts import Row
from fl_sim.core.errors import RequestError
from fl_sim.data.layout import Layout
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.runs import progress
from fl_sim.runs.profiler import PARTS, profile
from fl_sim.runs.progress import Progress
from fl_sim.runs.run_options import RunOptions

Maker = Callable[..., Experiment]


class BreakError(Exception):
    """The error that interrupts a run in these tests."""


def read_lines(out: Path) -> list[dict[str, object]]:
    (path,) = out.rglob("progress.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_round_is_a_line_whether_or_not_the_run_was_interrupted(
    experiment: Maker, tmp_path: Path
) -> None:
    def listen(progress: Progress) -> None:
        if progress.round == 2:
            raise BreakError

    wanted = experiment(rounds=4)
    run(wanted, out=tmp_path, controls=False, listen=listen)
    (path,) = tmp_path.rglob("progress.jsonl")
    path.write_text(path.read_text() + '{"round": 3, "of a round": "that was lost"}\n')
    heard: list[Progress] = []
    run(wanted, out=tmp_path, controls=False, resume=True, listen=heard.append)
    lines = read_lines(tmp_path)
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    assert [json.loads(own.to_json()) for own in heard] == lines[2:]
    names = "run label round rounds clients failures accuracy seconds clients_per_second"
    assert set(lines[0]) == {*names.split(), "seconds_left", "peak_mib"}
    last = lines[-1]
    assert last["seconds_left"] == 0
    assert isinstance(last["seconds"], float)
    assert last["clients_per_second"] == pytest.approx(4 / last["seconds"], rel=0.01)


def test_noise_is_reported_before_the_first_round(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(progress, "NOISE_SECONDS", 0.0)
    protection = ErrorMinimizing(max_passes=2, surrogate_steps=2, noise_steps=2)
    heard: list[Progress] = []
    wanted = experiment(protection=protection, layout=Layout(fraction=0.5))
    run(wanted, out=tmp_path, controls=False, listen=heard.append)
    before = [own.noise_passes for own in heard if own.round == 0]
    assert before == sorted(before)
    assert before[-1] == 2 * (200 + 2 * 200)  # of the surrogate, and of the noise
    assert all('"noise_passes"' in own.to_json() for own in heard if own.round == 0)
    assert [line["round"] for line in read_lines(tmp_path)] == [1, 2]


def test_an_accuracy_that_was_not_measured_is_null() -> None:
    line = Progress("here", "a run", 1, 2, 3, float("nan")).to_json()
    assert json.loads(line)["accuracy"] is None


@pytest.mark.slow
def test_standard_output_holds_json_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    sizes = ["data.num_samples=100", "data.num_test=60", "data.num_clients=2", "rounds=2"]
    small = ["data.dataset=digits", "model.backbone=small_cnn", "model.init=random", *sizes]
    fields = [part for field in [*small, "model.tune=full"] for part in ("--set", field)]
    call = ["fl-sim", "run", "experiments/quickstart.py", *fields, "--no-controls"]
    monkeypatch.setattr("sys.argv", [*call, "--out", str(tmp_path), "--progress", "json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in map(json.loads, printed) if line["round"]]  # 0: noise is made
    assert lines == read_lines(tmp_path)


def test_trackers_get_overall_numbers_and_no_name_is_a_folder_of_another() -> None:
    rows = [
        Row(1, "accuracy", 0.5),
        Row(1, "accuracy", 0.4, group="clean"),
        Row(1, "client_accuracy", 0.3, client=2),
        Row(1, "ratio", float("nan")),
    ]
    assert dict(trackers.select_overall(rows)) == {"accuracy": 0.5, "accuracy.clean": 0.4}


@pytest.mark.parametrize("name", sorted(trackers.discover_trackers()))
def test_a_tracker_without_its_package_is_refused_by_the_name_of_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(RequestError, match=rf"fl-sim\[{name}\]"):
        RunOptions(trackers=(name,))


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(
        RequestError, match="--track knows mlflow, tensorboard, wandb; got 'clipboard'"
    ):
        RunOptions(trackers=("clipboard",))


def test_tensorboard_shows_the_numbers_of_the_results(experiment: Maker, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = run(experiment(), out=tmp_path, controls=False, trackers=("tensorboard",))
    assert results.complete, results.cells.error.tolist()
    (folder,) = tmp_path.rglob("tensorboard")
    events = EventAccumulator(str(folder)).Reload().Scalars("accuracy")
    rows = results.rows.query("metric == 'accuracy' and client == -1")
    assert [event.step for event in events] == rows["round"].tolist() == [1, 2]
    assert [event.value for event in events] == pytest.approx(rows.value.tolist(), rel=1e-6)


def test_mlflow_continues_an_interrupted_run(experiment: Maker, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")

    def listen(progress: Progress) -> None:
        if progress.round == 1:
            raise BreakError

    chosen = {"controls": False, "trackers": ("mlflow",)}
    run(experiment(), out=tmp_path, listen=listen, **chosen)
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (group,) = client.search_experiments(filter_string="name = 'test'")
    (broken,) = client.search_runs([group.experiment_id])
    assert broken.info.status == "KILLED"
    results = run(experiment(), out=tmp_path, resume=True, **chosen)
    assert results.complete, results.cells.error.tolist()
    (whole,) = client.search_runs([group.experiment_id])
    assert whole.info.status == "FINISHED"
    assert whole.data.params["data.dataset"] == "digits"
    found = client.get_metric_history(whole.info.run_id, "accuracy")
    rows = results.rows.query("metric == 'accuracy' and client == -1")
    assert {m.step: m.value for m in found} == dict(zip(rows["round"], rows.value, strict=True))


def test_wandb_continues_an_interrupted_run_and_sends_nothing_unasked(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked with a stand-in, since the package is no dependency of the tests."""
    calls: list[tuple[str, dict[str, Any]]] = []

    class Run:
        id = "abc"

        def log(self, numbers: dict[str, float], step: int) -> None:
            calls.append(("log", {"step": step, **numbers}))

        def finish(self, exit_code: int) -> None:
            calls.append(("finish", {"exit_code": exit_code}))

    def init(**options: Any) -> Run:
        calls.append(("init", options))
        return Run()

    module: Any = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="wandb.py")
    module.init, module.Settings = init, dict
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)

    def listen(progress: Progress) -> None:
        if progress.round == 1:
            raise BreakError

    chosen = {"controls": False, "trackers": ("wandb",)}
    run(experiment(), out=tmp_path, listen=listen, **chosen)
    results = run(experiment(), out=tmp_path, resume=True, **chosen)
    assert results.complete, results.cells.error.tolist()
    assert [name for name, _ in calls] == ["init", "log", "finish", "init", "log", "finish"]
    first, second = (options for name, options in calls if name == "init")
    assert (first["id"], second["id"]) == (None, "abc")
    assert (first["mode"], first["project"], second["resume"]) == ("offline", "test", "allow")
    assert first["dir"] == str(tmp_path)
    assert first["config"]["data"]["dataset"] == "digits"
    assert [options for name, options in calls if name == "finish"] == [
        {"exit_code": 1},
        {"exit_code": 0},
    ]
    rows = results.rows.query("metric == 'accuracy' and client == -1")
    logged = {own["step"]: own["accuracy"] for name, own in calls if name == "log"}
    assert logged == dict(zip(rows["round"], rows.value, strict=True))


def test_a_folder_of_a_tracker_is_not_taken_for_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    if getattr(importlib.util.find_spec("wandb"), "origin", None) is None:
        with pytest.raises(RequestError, match=r"needs the package wandb, which is missing"):
            RunOptions(trackers=("wandb",))


def test_a_profile_accounts_for_the_whole_round(experiment: Maker) -> None:
    long = SgdClient(local_epochs=20)  # so that training takes most of it on any machine
    found = profile(experiment(client=long), 2, RunOptions())
    assert [own.part for own in found.parts] == list(PARTS)
    spent = {own.part: own for own in found.parts}
    assert max(spent.values(), key=lambda own: own.cpu).part == "training"
    assert all(own.wall > 0 for own in found.parts)
    assert sum(function.own for function in found.functions) > 0
    with pytest.raises(RequestError, match="local and ray"):
        profile(experiment(), 1, RunOptions(engine="flower"))


def test_a_finished_run_without_an_accuracy_is_reported_with_none(
    experiment: Maker, tmp_path: Path
) -> None:
    result = {"accuracy": None, "rounds": 2}  # JSON has null for NaN
    finished = progress.describe_finished(experiment(), tmp_path, "quick", result)
    assert math.isnan(finished.accuracy)
