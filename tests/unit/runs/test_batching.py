"""The choice to train clients as one batch, on a CPU and on a device that is only claimed."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from fl_sim import Data, Experiment, Model
from fl_sim.core.cache import cache_folder, digest
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.runs import batching
from fl_sim.runs.batching import choose_batching, is_batching_faster
from fl_sim.runs.environment import read_processor_name
from fl_sim.training import tasks
from fl_sim.training.tasks import ClientTask, cut_chunks

Maker = Callable[..., Experiment]
CUDA = torch.device("cuda", 0)


@pytest.fixture
def load(experiment: Maker) -> Callable[[Model], Federation]:
    def build(model: Model) -> Federation:
        return load_federation(experiment(model=model, data=Data("digits", 4, 100, 20)).to_json())

    return build


def claim_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batching, tasks):
        monkeypatch.setattr(module, "current_device", lambda: CUDA)
    monkeypatch.setattr(batching, "device_key", lambda: ("cuda",))


def test_on_a_cpu_only_layers_are_measured(
    load: Callable[[Model], Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "is_batching_faster", lambda federation: True)
    assert choose_batching("auto", load(Model("linear")))
    assert not choose_batching("off", load(Model("linear")))
    assert not choose_batching("auto", load(Model("tiny_cnn", norm="off")))
    assert choose_batching("on", load(Model("tiny_cnn", norm="off")))


def test_on_a_device_all_networks_without_batch_statistics_are_measured(
    load: Callable[[Model], Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_device(monkeypatch)
    monkeypatch.setattr(batching, "is_batching_faster", lambda federation: True)
    assert choose_batching("auto", load(Model("tiny_cnn", norm="group")))
    assert not choose_batching("auto", load(Model("tiny_cnn", norm="batch")))


def test_measurements_of_devices_are_kept_apart(
    load: Callable[[Model], Federation], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = load(Model("linear"))
    seconds = {"cohort": 2.0, "in_turn": 1.0}
    monkeypatch.setattr(batching, "time_both_ways", lambda federation: seconds)
    sgd = federation.experiment.client.sgd_config(1)
    shapes = [tuple(parameter.shape) for parameter in federation.model.parameters()]
    key = digest(read_processor_name(), repr(sgd), repr(shapes))  # as before there were devices
    (cache_folder() / "cohort" / f"{key}.json").unlink(missing_ok=True)
    assert not is_batching_faster(federation)
    assert (cache_folder() / "cohort" / f"{key}.json").exists()
    claim_device(monkeypatch)
    seconds["in_turn"] = 3.0
    assert is_batching_faster(federation)


def test_time_on_a_device_counts_when_its_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_device(monkeypatch)
    times = iter([1.0, 4.0])
    waits: list[torch.device] = []
    module = SimpleNamespace(synchronize=lambda: waits.append(CUDA))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(batching, "perf_counter", lambda: next(times) if waits else 0.0)
    assert (batching._read_clock(), batching._read_clock()) == (1.0, 4.0)
    assert len(waits) == 2


def test_a_device_takes_a_round_of_fifty_as_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = [ClientTask(client) for client in range(50)]
    assert [len(chunk) for chunk in cut_chunks(clients, [1.0] * 50, True)] == [25, 25]
    claim_device(monkeypatch)
    assert [len(chunk) for chunk in cut_chunks(clients, [1.0] * 50, True)] == [50]
