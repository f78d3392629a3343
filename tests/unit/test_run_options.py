"""Options of a run: declared once, and a wrong one is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_sim import Experiment, run
from fl_sim.contracts import Update
from fl_sim.core.errors import RequestError
from fl_sim.flower.client_app import app
from fl_sim.rounds.callbacks import Callback
from fl_sim.runs import runner
from fl_sim.runs.run_options import RunOptions, make_options
from fl_sim.training.faults import Faults
from fl_sim.training.tasks import RoundConfig


class Watcher(Callback):
    """Watches updates, which only the engine local shows."""

    def on_client_update(self, config: RoundConfig, update: Update) -> None:
        pass


def test_options_are_the_fields_and_a_folder_may_be_text() -> None:
    assert make_options({}) == RunOptions()
    assert make_options({"out": "here", "workers": 2}) == RunOptions(Path("here"), workers=2)


def test_a_single_callback_or_a_list_is_made_a_tuple() -> None:
    callback = Watcher()
    assert make_options({"callbacks": callback}).callbacks == (callback,)
    assert make_options({"callbacks": [callback]}).callbacks == (callback,)
    assert make_options({"trackers": "tensorboard"}).trackers == ("tensorboard",)


def test_faults_may_be_text_and_the_device_one_of_pytorch() -> None:
    assert make_options({"faults": "nan:0.5"}).faults == Faults(nan=0.5)
    assert make_options({"device": torch.device("cpu")}).device == "cpu"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"faults": "often"}, "--inject takes kind:chance, such as nan:0.1; got 'often'"),
        ({"device": torch.device("meta")}, "device: auto, cpu, cuda, .*; got 'meta'"),
        (
            {"worker": 2},
            "a run has no option 'worker'; did you mean 'workers'?; it has out, engine",
        ),
        ({"cohort": "on"}, "the option cohort is batch_clients since version 0.2"),
        ({"engine": "flower", "faults": Faults(nan=0.5)}, "--inject works on the engines"),
        ({"ray_address": "auto"}, "--ray-address belongs to --engine ray"),
        ({"workers": 0}, "workers: at least 1; got 0"),
        ({"callbacks": Watcher(), "engine": "ray"}, "on_client_update need the engine local"),
        ({"callbacks": Watcher(), "engine": "flower"}, "on_client_update need the engine local"),
        ({"callbacks": Watcher(), "client_app": app}, "on_client_update .* without a client_app"),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("?", r"\?")):
        make_options(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": "2"}, "workers: expected int; got '2'"),
        ({"workers": True}, "workers: expected int; got True"),
        ({"engine": "Local"}, "engine: expected one of 'local', 'ray', 'flower'; got 'Local'"),
        ({"resume": "yes"}, "resume: expected bool; got 'yes'"),
        ({"batch_clients": True}, "batch_clients: expected one of 'auto', 'on', 'off'; got True"),
        ({"faults": "nan:0.5"}, "faults: expected Faults; got 'nan:0.5'"),
        ({"out": 3}, "out: expected Path; got 3"),
        ({"client_app": print}, "client_app: expected None or ClientApp; got <built-in"),
        ({"trackers": None}, "trackers: expected tuple; got None"),
        ({"callbacks": (Callback,)}, "callbacks: expected Callback; got .<class"),
        ({"callbacks": ("no callback",)}, "callbacks: expected Callback; got .'no callback'"),
    ],
)
def test_a_wrong_type_is_refused_before_any_work(given: dict[str, Any], message: str) -> None:
    options = object.__new__(RunOptions)  # tests check the constructor's types themselves
    for name, value in {**vars(RunOptions()), **given}.items():
        object.__setattr__(options, name, value)
    with pytest.raises(RequestError, match=message):
        options.__post_init__()


@pytest.mark.parametrize("chances", [{"nan": 2.0}, {"nan": -0.5}, {"crash": 0.6, "nan": 0.6}])
def test_chances_of_faults_are_probabilities(chances: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="at least 0 and at most 1 in all"):
        Faults(**chances)


def test_several_devices_are_those_of_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    both = (torch.device("cuda", 0), torch.device("cuda", 1))
    for engine in ("local", "ray", "flower"):
        options = make_options({"device": "cuda:0,1", "engine": engine})
        assert options.find_devices() == both
        assert options.find_device() == both[0]


def test_a_foreign_app_is_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert make_options({"device": "auto", "client_app": app}).find_device().type == "cpu"
    with pytest.raises(RequestError, match="device: cpu with a ClientApp; got 'cuda'"):
        make_options({"device": "cuda", "client_app": app})


def test_there_are_as_many_workers_as_devices(
    experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}

    def stop(task: Any, jobs: Any, workers: int, **named: Any) -> None:
        given.update(named, workers=workers)
        raise RequestError("enough")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(runner, "run_jobs", stop)
    with pytest.raises(RequestError, match="enough"):
        run(experiment(), out=tmp_path, device="cuda:0,1")
    assert given["workers"] == len(given["devices"]) == 2
