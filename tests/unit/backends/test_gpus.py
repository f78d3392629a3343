"""Ray workers that share GPUs; a fake Ray stands for one on a machine with GPUs."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fl_sim.backends import ray_pool
from fl_sim.core import device
from fl_sim.core.device import CPU
from fl_sim.core.errors import RequestError

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)
VISIBLE = "CUDA_VISIBLE_DEVICES"


class FakeRay:
    """Records how it is started, and the resources of the workers that it is asked for."""

    def __init__(self) -> None:
        self.is_running, self.resources = False, {"CPU": 8.0, "GPU": 0.0}
        self.starts: list[tuple[Any, str | None]] = []
        self.workers: list[float] = []
        self.killed = 0

    def is_initialized(self) -> bool:
        return self.is_running

    def init(self, num_gpus: int | None = None, address: str | None = None, **_: Any) -> None:
        self.is_running = True
        self.starts.append((num_gpus, os.environ.get(VISIBLE)))
        self.resources["GPU"] = self.resources["GPU"] if address else float(num_gpus or 0)

    def shutdown(self) -> None:
        self.is_running = False

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def kill(self, actor: Any) -> None:
        self.killed += 1

    def remote(self, num_gpus: float, **_: Any) -> Any:
        def start() -> Any:
            self.workers.append(num_gpus)
            call = SimpleNamespace(remote=lambda *_: None)
            return SimpleNamespace(report_ready=call, adopt_modules=call)

        return lambda _: SimpleNamespace(remote=start)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    ray = FakeRay()
    monkeypatch.setattr(ray_pool, "ray", ray)
    monkeypatch.setattr(ray_pool, "share_tensors", lambda: None)
    monkeypatch.setattr(ray_pool.loopback, "find_start_problem", str)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(ray_pool, "_pool", [])
    monkeypatch.setattr(ray_pool, "_address", None)
    monkeypatch.setattr(ray_pool, "_gpus", [])
    monkeypatch.delenv(VISIBLE, raising=False)
    yield ray
    assert VISIBLE not in os.environ


@pytest.mark.parametrize(
    ("num_gpus", "workers", "share"),
    [(1, 1, 1.0), (1, 4, 0.25), (2, 2, 1.0), (2, 3, 0.5), (4, 2, 1.0), (0, 2, 0.0)],
)
def test_each_worker_has_a_whole_gpu_or_an_even_fraction(
    num_gpus: int, workers: int, share: float
) -> None:
    assert device.share_gpus(num_gpus, workers) == share
    assert num_gpus == 0 or workers * share <= num_gpus


def test_workers_on_a_cpu_have_no_gpu(fake: FakeRay) -> None:
    ray_pool.get_workers(2)
    assert fake.starts == [(0, None)]
    assert fake.workers == [0.0, 0.0]


def test_workers_share_the_chosen_gpus_alone(fake: FakeRay) -> None:
    ray_pool.get_workers(2, devices=(SECOND,))
    assert fake.starts == [(1, "1")]
    assert fake.workers == [0.5, 0.5]
    ray_pool.get_workers(2, devices=(SECOND,))
    assert len(fake.workers) == 2  # they are warm
    ray_pool.get_workers(2, devices=(FIRST, SECOND))
    assert fake.starts[1:] == [(2, "0,1")]
    assert fake.workers[2:] == [1.0, 1.0]
    ray_pool.get_workers(1, devices=(CPU,))
    assert fake.starts[2:] == [(0, None)]


def test_a_choice_among_visible_gpus_keeps_their_names(
    fake: FakeRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(VISIBLE, "5,7")
        ray_pool.get_workers(1, devices=(SECOND,))
        assert fake.starts == [(1, "7")]
        assert os.environ[VISIBLE] == "5,7"


def test_workers_share_all_gpus_of_a_cluster(fake: FakeRay) -> None:
    fake.resources["GPU"] = 4.0
    ray_pool.get_workers(8, "head:6379", (FIRST,))
    assert fake.starts == [(None, None)]
    assert fake.workers == [0.5] * 8
    ray_pool.get_workers(4, "head:6379", (FIRST,))
    assert fake.workers[8:] == [1.0] * 4
    assert fake.killed == 8


def test_a_cluster_without_gpus_is_refused(fake: FakeRay) -> None:
    with pytest.raises(RequestError, match="--device cuda: the cluster at 'head:6379' has no GPU"):
        ray_pool.get_workers(2, "head:6379", (FIRST,))
