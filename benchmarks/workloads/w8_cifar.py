"""W8: the CIFAR-10 benchmark of pfl-research: 1,000 clients of 50 images, 50 a round.

Batches are of ten. The network is the project's small CNN, the same for all engines. Images and
labels are random, since only time is measured.

Source: Granqvist et al. (2024), https://arxiv.org/abs/2404.06430.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import GPU, Case, make_round_jobs
from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, Participation
from fl_sim.core.atomic_io import write_arrays
from fl_sim.core.cache import cache_folder
from fl_sim.data.partition import Iid
from strategies.fedavg import FedAvg

NAME = "CIFAR-10, 50 per round"
NUM_CLIENTS, PER_CLIENT, PER_ROUND, BATCH = 1000, 50, 50, 10
SHAPE, NUM_CLASSES = (3, 32, 32), 10


def list_cases(full: bool) -> list[Case]:
    """Return the one case."""
    return [make_case(("floor", "local", "flower", "pfl"))]


def list_gpu_cases() -> list[Case]:
    """Return the one case."""
    return [make_case(GPU)]


def make_case(
    engines: tuple[str, ...], clients: int = NUM_CLIENTS, per_round: int = PER_ROUND
) -> Case:
    """Return a case of some clients."""
    path = image_path(clients * PER_CLIENT)
    experiment = Experiment(
        name="cifar",
        client=SgdClient(learning_rate=0.1, momentum=0.0, batch_size=BATCH, local_epochs=1),
        strategy=FedAvg(),
        data=Data("npz", clients, held_out=0.0, path=str(path)),
        partition=Iid(),
        model=Model("small_cnn", norm="off"),
        participation=Participation(per_round),
    )
    prepare = partial(write_random_images, path, clients * PER_CLIENT)
    return Case("W8", NAME, make_round_jobs(experiment, engines), prepare=prepare)


def image_path(count: int) -> Path:
    """Return the path of a file of random images."""
    return cache_folder() / "benchmarks" / f"random-{count}.npz"


def write_random_images(path: Path, count: int) -> None:
    """Write random images of CIFAR-10's shape, unless they are there."""
    if path.exists():
        return
    rng = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {
        "train_images": rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8),
        "train_labels": np.arange(count) % NUM_CLASSES,
        "test_images": rng.integers(0, 256, (10, *SHAPE), dtype=np.uint8),
        "test_labels": np.arange(10),
    }
    write_arrays(path, arrays, compressed=False)
