"""W0: the cost of a round besides training. Clients send the model back as it came."""

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.cases import Case, make_round_jobs
from clients.noop import NoopClient
from fl_sim.core.cache import cache_folder
from fl_sim.data.partition import Iid
from fl_sim.experiment import Data, Experiment, Model
from strategies.fedavg import FedAvg

# Parameters of a linear network: classes times (pixels plus one).
SIZES = {
    "0.001M": (10, 99),
    "0.1M": (10, 9_999),
    "1M": (100, 9_999),
    "5M": (100, 49_999),
    "25M": (100, 249_999),
}
QUICK = {("0.001M", 100), ("0.001M", 1000), ("0.1M", 100), ("1M", 10), ("1M", 100), ("25M", 100)}
# Left out for stock Flower: more memory than a small machine has, or minutes.
TOO_MUCH = {("0.1M", 1000), ("1M", 1000), ("5M", 100), ("5M", 1000), ("25M", 10), ("25M", 100)}
SPARED = {("5M", 1000), ("25M", 1000)}  # 20 and 100 GB of parameters per round


def list_cases(full: bool) -> list[Case]:
    """Return one case per size and number of clients."""
    grid = [(size, count) for size in SIZES for count in (10, 100, 1000)]
    selected = [cell for cell in grid if cell not in SPARED and (full or cell in QUICK)]
    return [_make_case(size, count) for size, count in selected]


def _make_case(size: str, num_clients: int) -> Case:
    num_classes, pixels = SIZES[size]
    path = cache_folder() / "benchmarks" / f"blank-{num_classes}-{pixels}.npz"
    experiment = Experiment(
        name="overhead",
        client=NoopClient(),
        strategy=FedAvg(),
        data=Data("npz", num_clients, held_out=0.0, path=str(path)),
        partition=Iid(),
        model=Model("linear"),
    ).with_value("data.num_samples", num_clients)
    engines: tuple[str, ...] = ("floor", "optimised", "local", "ray")
    engines += () if (size, num_clients) in TOO_MUCH else ("flower",)
    name = f"{num_clients} clients x {size}"
    prepare = partial(_write_blank_images, path, num_classes, pixels)
    return Case("W0", name, make_round_jobs(experiment, engines), budget=60.0, prepare=prepare)


def _write_blank_images(path: Path, num_classes: int, pixels: int) -> None:
    """Write black images of one row each: a thousand small ones, or a hundred large ones."""
    if path.exists():
        return
    count = 1000 if pixels < 10_000 else 100
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        train_images=np.zeros((count, 1, 1, pixels), np.uint8),
        train_labels=np.arange(count) % num_classes,
        test_images=np.zeros((1, 1, 1, pixels), np.uint8),
        test_labels=np.zeros(1, np.int64),
    )
