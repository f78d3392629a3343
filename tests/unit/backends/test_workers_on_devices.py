"""Workers of Ray and nodes of Flower on a simulated device; they send tensors of the CPU."""

from collections.abc import Callable, Iterator

import pytest
import torch

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model
from fl_sim.backends import ray_worker
from fl_sim.backends.ray_worker import Worker, pack_trainer
from fl_sim.contracts import Update
from fl_sim.core.device import CPU
from fl_sim.federation.federation import Federation, prepare_federation
from fl_sim.flower.backend import FlowerBackend
from fl_sim.flower.client_app import app
from fl_sim.flower.local_grid import LocalGrid
from fl_sim.training import faults
from fl_sim.training.client_trainer import make_trainer
from fl_sim.training.tasks import Chunk, ChunkResult, ClientTask, RoundConfig
from tests.simulated_device import DeviceTensor, simulate_device

CHUNK: Chunk = (ClientTask(0), ClientTask(1), ClientTask(2))


@pytest.fixture
def small(experiment: Callable[..., Experiment]) -> Experiment:
    return experiment(
        client=SgdClient(batch_size=8, local_epochs=1),
        data=Data("digits", num_clients=3, num_samples=60, num_test=20),
        model=Model("linear"),
    )


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(ray_worker.process, "configure_process", lambda: None)
    monkeypatch.setattr(ray_worker, "share_tensors", lambda: None)
    monkeypatch.setattr(ray_worker.ray, "get_gpu_ids", list)
    yield Worker()
    faults.in_worker = False


def configure(federation: Federation, together: bool) -> RoundConfig:
    return RoundConfig(1, federation.start, federation.start_buffers, batch_clients=together)


def check(found: ChunkResult, expected: ChunkResult) -> None:
    assert not found.failures
    for one, other in zip(found.updates, expected.updates, strict=True):
        assert one.delta is not None
        assert one.delta.device == CPU
        assert not isinstance(one.delta, DeviceTensor)
        torch.testing.assert_close(one.delta, other.delta)


@pytest.mark.parametrize("together", [False, True])
def test_a_worker_of_ray_trains_and_scores_on_its_device(
    small: Experiment, worker: Worker, together: bool, batched_steps: list[int]
) -> None:
    federation = prepare_federation(small)
    config = configure(federation, together)
    expected = make_trainer(federation).train_chunk(config, CHUNK)
    with simulate_device() as device:
        there = prepare_federation(small)
        package = pack_trainer(make_trainer(there), there.evaluation_inputs)
        assert package.trainer.shards.inputs.device == CPU
        worker.load(package)
        assert worker.trainer is not None
        assert worker.trainer.device == worker.trainer.shards.inputs.device == device
        batched_steps.clear()
        check(worker.train_chunk(config, CHUNK), expected)
        assert bool(batched_steps) == together
        name = next(iter(there.evaluation_inputs))
        logits = worker.score(there.start, there.start_buffers, name, slice(0, 5))
        assert logits.device == CPU
        assert len(logits) == 5


def test_a_node_of_flower_trains_on_its_device(small: Experiment) -> None:
    federation = prepare_federation(small)
    config = configure(federation, False)
    expected = make_trainer(federation).train_chunk(config, CHUNK)
    with simulate_device():
        backend = FlowerBackend(make_trainer(prepare_federation(small)), LocalGrid(app, 3))
        ((_, found),) = backend.train(config, [CHUNK])
    check(found, expected)
    assert all(isinstance(update, Update) for update in found.updates)
