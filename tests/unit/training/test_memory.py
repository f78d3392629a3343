"""Batches of clients that do not fit into a device's memory; training on the CPU stands for it."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, run
from fl_sim.core.errors import FieldError
from fl_sim.federation.federation import Federation, prepare_federation
from fl_sim.runs import memory
from fl_sim.training import batched_clients, client_trainer
from fl_sim.training.client_trainer import ClientTrainer, make_trainer
from fl_sim.training.tasks import ClientTask, RoundConfig

MIB = 1024**2
CUDA, MPS = torch.device("cuda", 0), torch.device("mps", 0)
train_batched = batched_clients.train_batched


@pytest.fixture
def small(experiment: Callable[..., Experiment]) -> Experiment:
    return experiment(
        name="memory",
        client=SgdClient(batch_size=8),
        data=Data("digits", num_clients=6, num_samples=120, num_test=20),
        model=Model("linear"),
        rounds=2,
    )


@pytest.fixture
def federation(small: Experiment) -> Federation:
    return prepare_federation(small)


class Device:
    """A device with some memory: training records its needs, and fails beyond what is free."""

    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")

    def __init__(self, free: int, kind: torch.device = CUDA) -> None:
        self.free, self.kind, self.per_client, self.fixed = free, kind, 10 * MIB, 30 * MIB
        if kind == MPS:
            self.error = RuntimeError("MPS backend out of memory (MPS allocated: 9 GiB)")
        self.batches: list[int] = []
        self.records: list[int] = []
        self.peak = self.emptied = 0

    def train_batched(self, model: Any, shards: Any, *args: Any) -> Any:
        clients = args[-1]
        self.batches.append(len(clients))
        self.records.append(max(len(shards.owners[client]) for client in clients))
        self.allocate(self.fixed + self.per_client * len(clients))
        return train_batched(model, shards, *args)

    def allocate(self, size: int) -> None:
        if size > self.free:
            raise self.error
        self.peak = max(self.peak, size)

    def empty_cache(self) -> None:
        self.emptied += 1
        self.peak = 0  # MPS gives its reserve back

    def reset_peak(self, device: torch.device) -> None:
        self.peak = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Device":
        monkeypatch.setattr(batched_clients, "train_batched", self.train_batched)
        monkeypatch.setattr(client_trainer, "empty_cache", lambda _: self.empty_cache())
        monkeypatch.setattr(torch.mps, "empty_cache", self.empty_cache)
        monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 5 * MIB + self.peak)
        monkeypatch.setattr(torch.accelerator, "reset_peak_memory_stats", self.reset_peak)
        monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda _: 5 * MIB)
        monkeypatch.setattr(
            torch.accelerator, "max_memory_allocated", lambda _: 5 * MIB + self.peak
        )
        monkeypatch.setattr(memory, "free_memory", lambda _: self.free)
        monkeypatch.setattr(memory, "current_device", lambda: self.kind)
        return self


def train(trainer: ClientTrainer, federation: Federation, sum_updates: bool = False) -> Any:
    config = RoundConfig(1, federation.start, {}, batch_clients=True, sum_updates=sum_updates)
    return trainer.train_chunk(config, tuple(ClientTask(client) for client in range(6)))


@pytest.mark.parametrize("sum_updates", [False, True])
def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same_numbers(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sum_updates: bool,
) -> None:
    expected = train(make_trainer(federation), federation, sum_updates)
    device = Device(55 * MIB).install(monkeypatch)  # two clients
    trainer = make_trainer(federation)
    assert trainer.memory_note == ""
    with caplog.at_level(logging.WARNING, "fl_sim"):
        result = train(trainer, federation, sum_updates)
    assert device.batches == [6, 3, 1, 1, 1, 1, 1, 1]
    assert trainer.max_batch == 1
    assert device.emptied == 2
    assert not result.failures
    if sum_updates:
        assert torch.equal(result.total, expected.total)
    for one, other in zip(result.updates, expected.updates, strict=True):
        assert one.metrics == other.metrics
        assert sum_updates or torch.equal(one.delta, other.delta)
    words = "clients in one batch: at most 1, for the device's memory"
    assert trainer.memory_note == words
    assert words in caplog.text
    train(trainer, federation)
    assert device.batches[8:] == [1] * 6  # the next round begins with what fits


def test_a_client_that_does_not_fit_alone_fails_by_itself(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    Device(MIB).install(monkeypatch)
    result = train(make_trainer(federation), federation)
    assert [failure.client for failure in result.failures] == list(range(6))
    assert "CUDA out of memory" in result.failures[0].cause


@pytest.mark.parametrize("kind", [CUDA, MPS], ids=str)
@pytest.mark.parametrize(("free", "fits"), [(1000, None), (60, 2), (80, 4), (41, 1)])
def test_a_step_of_one_and_of_two_clients_tells_how_many_fit(
    federation: Federation,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    fits: int | None,
    kind: torch.device,
) -> None:
    device = Device(free * MIB, kind).install(monkeypatch)
    trainer = make_trainer(federation)
    memory.fit_to_device(trainer, federation, batched=True)
    assert trainer.max_batch == fits
    assert max(device.records) == 8  # a batch and not the whole shard
    train(trainer, federation)
    assert max(device.batches[2:]) <= (fits or 6)


@pytest.mark.parametrize("kind", [CUDA, MPS], ids=str)
def test_a_step_that_does_not_fit_is_refused_by_its_field(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, kind: torch.device
) -> None:
    Device(20 * MIB, kind).install(monkeypatch)
    words = f"client.batch_size: smaller: one step needs more than 20 MiB, free on {kind}; got 8"
    with pytest.raises(FieldError, match=words):
        memory.fit_to_device(make_trainer(federation), federation, batched=True)


def test_clients_one_by_one_are_tried_alone(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(20 * MIB).install(monkeypatch)
    sizes: list[int] = []

    def train_alone(self: SgdClient, model: Any, shard: Any, rng: Any) -> dict[str, float]:
        sizes.append(len(shard))
        device.allocate(10 * MIB)
        return {"train_loss": 0.0, "train_accuracy": 0.0}

    monkeypatch.setattr(SgdClient, "train", train_alone)
    memory.fit_to_device(make_trainer(federation), federation, batched=False)
    assert sizes == [8]
    device.free = 5 * MIB
    with pytest.raises(FieldError, match=r"client\.batch_size"):
        memory.fit_to_device(make_trainer(federation), federation, batched=False)


def test_the_cpu_is_not_probed(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(0).install(monkeypatch)
    monkeypatch.setattr(memory, "current_device", lambda: torch.device("cpu"))
    memory.fit_to_device(make_trainer(federation), federation, batched=True)
    assert device.batches == []


def test_the_result_of_a_run_says_so_and_keeps_its_numbers(
    small: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def read(out: Path) -> dict[str, Any]:
        assert run(small, out=out, controls=False, batch_clients="on").complete
        (path,) = out.rglob("result.json")
        content: dict[str, Any] = json.loads(path.read_text())
        return content

    before = read(tmp_path / "before")
    assert "memory_note" not in before
    Device(55 * MIB).install(monkeypatch)
    monkeypatch.setattr(memory, "current_device", lambda: torch.device("cpu"))
    after = read(tmp_path / "after")
    assert after["memory_note"] == "clients in one batch: at most 1, for the device's memory"
    assert after["params_sha256"] == before["params_sha256"]
