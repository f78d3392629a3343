"""Shared set-up of all tests: an isolated cache, one thread, repeatable hypotheses, small data."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from . import shape_checks  # noqa: F401  isort: skip  before any module of fl_sim is imported

import fl_sim  # noqa: F401  turns Flower's telemetry off before any test imports flwr
from clients.sgd import SgdClient
from fl_sim import Data, Experiment
from fl_sim.contracts import Dataset, RoundRecord, Triggered
from fl_sim.data.sources import load_dataset, take_subset
from fl_sim.training.batched_layers import StackedLayers
from fl_sim.training.batched_networks import StackedNetwork
from strategies.fedavg import FedAvg

settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=int(os.environ.get("FL_SIM_EXAMPLES", "25")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


gc.disable()  # until all tests are collected: what is imported stays


def pytest_collection_finish() -> None:
    """Collect garbage from now on, and look no more through what was imported."""
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks, regardless of the project's settings."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds")
    config.addinivalue_line("markers", "gpu: needs an accelerator")
    if "gpu" not in config.option.markexpr:  # all other tests use the CPU, also by default
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that need an accelerator, unless they were asked for."""
    if "gpu" in config.option.markexpr:
        return
    unasked = [item for item in items if "gpu" in item.keywords]
    config.hook.pytest_deselected(items=unasked)
    items[:] = [item for item in items if item not in unasked]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Separate the cache of the tests from that of the user."""
    folder, before = tmp_path_factory.mktemp("cache"), os.environ.get("FL_SIM_CACHE")
    os.environ["FL_SIM_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["FL_SIM_CACHE"]
    else:
        os.environ["FL_SIM_CACHE"] = before


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread, as backends do: reductions depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def batched_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the number of clients in each step of a batch of clients.

    Without it, a test of batched clients would also pass if none were batched.
    """
    steps: list[int] = []

    def watch(kind: Any) -> None:
        take_step = kind.take_step

        def record(models: Any, records: Any, targets: Any, sgd: Any) -> None:
            steps.append(len(targets.labels))
            take_step(models, records, targets, sgd)

        monkeypatch.setattr(kind, "take_step", record)

    watch(StackedLayers)
    watch(StackedNetwork)
    return steps


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures blank, for tests of a page's text: rendering takes most of the page's time."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    def save(figure: Figure, file: Any, **options: Any) -> None:
        file.write(b'<svg viewBox="0 0 1 1"></svg>' if options["format"] == "svg" else b"")

    monkeypatch.setattr(Figure, "savefig", save)
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda engine, figure: None)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Return 120 training and 60 test digits, with balanced classes."""
    return take_subset(load_dataset("digits"), 120, 60)


@pytest.fixture(scope="session")
def experiment() -> Callable[..., Experiment]:
    """Return a factory of small experiments on digits, with replaceable fields."""

    def make(**fields: Any) -> Experiment:
        usual: dict[str, Any] = {
            "name": "test",
            "client": SgdClient(),
            "strategy": FedAvg(),
            "data": Data(dataset="digits", num_clients=4, num_samples=200, num_test=60),
            "rounds": 2,
        }
        return Experiment(**(usual | fields))

    return make


@pytest.fixture(scope="session")
def observation() -> Callable[..., RoundRecord]:
    """Return a factory of round records: 4 clients, 10 classes, even pools; fields can be replaced.

    For each client and class the pool has two members and two non-members, and one of each is
    protected; the clients hold twice as many records. The test set has three images of each class,
    and the model guesses class 0.
    """

    def make(**fields: Any) -> RoundRecord:
        grid = torch.cartesian_prod(*(torch.arange(size) for size in (4, 10, 2, 2)))
        usual: dict[str, Any] = {
            "round": 3,
            "test_logits": torch.zeros(30, 10),
            "test_labels": torch.arange(10).repeat(3),
            "pool_logits": torch.zeros(len(grid), 10),
            "pool_labels": grid[:, 1].clone(),
            "pool_clients": grid[:, 0].clone(),
            "members": grid[:, 2] == 1,
            "protected": grid[:, 3] == 1,
            "class_counts": torch.full((4, 10), 8),
            "protected_counts": torch.full((4,), 40),
            "updates": (),
            "attackers": frozenset(),
            "decision": None,
            "personal": {},
            "num_failures": 0,
            "seconds": 1.0,
            "bytes_down": 10,
            "bytes_up": 10,
            "triggered": Triggered(torch.zeros(30, 10), target=0),
        }
        return RoundRecord(**(usual | fields))

    return make
