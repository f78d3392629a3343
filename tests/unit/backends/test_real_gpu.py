"""Memory and workers on a real GPU; selected by `pytest -m gpu`, on machines that have one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, run
from fl_sim.core.device import measure_peak, resolve_devices, use_device
from fl_sim.federation.federation import Federation, prepare_federation
from fl_sim.runs import memory
from fl_sim.training.client_trainer import ClientTrainer, make_trainer
from fl_sim.training.tasks import ChunkResult, ClientTask, RoundConfig

pytestmark = pytest.mark.gpu
NUM_CLIENTS = 16


@pytest.fixture
def federation(experiment: Callable[..., Experiment]) -> Iterator[Federation]:
    """Return a federation on the GPU, whose whole memory is free again afterwards."""
    with use_device(resolve_devices("cuda")[0]):
        yield prepare_federation(
            experiment(
                client=SgdClient(batch_size=8),
                data=Data("digits", num_clients=NUM_CLIENTS, num_samples=320, num_test=20),
                model=Model("resnet18", norm="group"),
            )
        )
        torch.cuda.set_per_process_memory_fraction(1.0)


def train(trainer: ClientTrainer, federation: Federation) -> ChunkResult:
    config = RoundConfig(1, federation.start, federation.start_buffers, batch_clients=True)
    return trainer.train_chunk(config, tuple(map(ClientTask, range(NUM_CLIENTS))))


def test_memory_that_runs_out_halves_the_batch(federation: Federation) -> None:
    expected = train(make_trainer(federation), federation)
    trainer, device = make_trainer(federation), resolve_devices("cuda")[0]
    whole = measure_peak(device, lambda: train(trainer, federation))
    torch.accelerator.empty_cache()
    allowed = torch.cuda.memory_reserved(device) + whole // 2
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    found = train(trainer, federation)
    assert trainer.max_batch is not None
    assert not found.failures
    for one, other in zip(found.updates, expected.updates, strict=True):
        assert one.delta is not None
        assert other.delta is not None
        assert float((one.delta - other.delta).norm()) <= 1e-3 * float(other.delta.norm())


def test_a_step_tells_how_many_clients_fit(federation: Federation) -> None:
    trainer = make_trainer(federation)
    memory.fit_to_device(trainer, federation, batched=True)
    assert trainer.max_batch is None  # sixteen small networks fit on every GPU


@pytest.mark.ray
@pytest.mark.parametrize("engine", ["ray", "flower"])
def test_workers_that_share_a_gpu_give_the_bits_of_one_process(
    engine: Any, experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    hashes = set()
    for name in ("local", engine):
        options: Any = {"engine": name, "workers": 2, "controls": False, "batch_clients": "off"}
        results = run(experiment(), out=tmp_path / name, device="cuda", **options)
        assert results.complete, results.cells.get("error")
        hashes.add(results.cells.params_sha256[0])
    assert len(hashes) == 1
