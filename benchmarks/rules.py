"""The cost of aggregation: our rules beside Flower's strategies and ByzFL's aggregators.

`python -m benchmarks.rules` prints a table and writes benchmarks/rules.json. Each number comes from
a separate process with one thread. Seconds are CPU seconds, the minimum of a few calls, which other
load hardly affects; MiB is the rise of the peak memory above the stack of updates.
"""

import importlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from flwr.app import ConfigRecord
from flwr.serverapp import strategy as flower
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fl_sim.contracts import AggregationRule, Update
from fl_sim.core.atomic_io import write_json
from fl_sim.core.seeding import generator
from fl_sim.core.vision import torchvision  # noqa: F401  ByzFL imports it, which fails on CPU builds
from fl_sim.flower import compat
from fl_sim.flower.records import Shapes, to_record
from fl_sim.flower.roster import ClientRoster, make_replies
from strategies.bulyan import Bulyan
from strategies.fedavg import FedAvg
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum, MultiKrum
from strategies.median import CoordinateMedian
from strategies.nnm import NearestNeighborMixing
from strategies.trimmed_mean import TrimmedMean

RESULTS = Path(__file__).with_name("rules.json")
BYZFL = Path(sys.prefix) / "byzfl"  # installed there by `make bench`, without dependencies
CLIENTS, PARAMETERS, ATTACKERS, RUNS = 100, 1_663_370, 10, 5  # the CNN of McMahan et al.
PEERS = ("ours", "flower", "byzfl")
Prepare = Callable[[], Callable[[], Any]]  # prepares a call, and returns the function to time


class Cost(NamedTuple):
    """CPU time and memory of one call."""

    seconds: float
    mib: float


OURS: dict[str, AggregationRule] = {
    "FedAvg": FedAvg(),
    "median": CoordinateMedian(),
    "trimmed mean": TrimmedMean(num_byzantine=ATTACKERS),
    "Krum": Krum(num_byzantine=ATTACKERS),
    "Multi-Krum": MultiKrum(num_byzantine=ATTACKERS),
    "Bulyan": Bulyan(num_byzantine=ATTACKERS),
    "geometric median": GeometricMedian(),
    "NNM + trimmed mean": NearestNeighborMixing(ATTACKERS, TrimmedMean(ATTACKERS)),
}
FLOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "FedAvg": ("FedAvg", {}),
    "median": ("FedMedian", {}),
    "trimmed mean": ("FedTrimmedAvg", {"beta": ATTACKERS / CLIENTS}),
    "Krum": ("Krum", {"num_malicious_nodes": ATTACKERS}),
    "Multi-Krum": (
        "MultiKrum",
        {"num_malicious_nodes": ATTACKERS, "num_nodes_to_select": CLIENTS - ATTACKERS},
    ),
}
BYZFLS = {
    "FedAvg": ("Average", ()),
    "median": ("Median", ()),
    "trimmed mean": ("TrMean", (ATTACKERS,)),
    "Krum": ("Krum", (ATTACKERS,)),
    "Multi-Krum": ("MultiKrum", (ATTACKERS,)),
    "geometric median": ("GeometricMedian", ()),
    "NNM + trimmed mean": ("TrMean", (ATTACKERS,)),
}


def measure_rules(
    num_clients: int = CLIENTS, num_parameters: int = PARAMETERS, peers: tuple[str, ...] = PEERS
) -> list[dict[str, Any]]:
    """Return one row per rule: seconds and MiB of each library, NaN if it has no such rule.

    ByzFL is left out if it cannot be imported.
    """
    if "byzfl" in peers and not _has_byzfl():
        peers = tuple(peer for peer in peers if peer != "byzfl")
    rows = []
    for rule in OURS:
        row: dict[str, Any] = {"rule": rule}
        for peer in peers:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                figure = pool.submit(measure, peer, rule, num_clients, num_parameters).result()
            row |= {f"{peer}_seconds": figure.seconds, f"{peer}_mib": figure.mib}
        rows.append(row)
    return rows


def measure(peer: str, rule: str, num_clients: int, num_parameters: int) -> Cost:
    """Return the cost of one call in this process; NaN if memory is insufficient."""
    torch.set_num_threads(1)
    updates = torch.randn(num_clients, num_parameters, generator=generator(0, "benchmark"))
    functions = {"ours": _prepare_ours, "flower": _prepare_flower, "byzfl": _prepare_byzfl}
    prepare = functions[peer](rule, updates)
    if prepare is None:
        return Cost(math.nan, math.nan)
    call, seconds = prepare(), math.inf
    before = _read_peak_mib()
    for _ in range(RUNS):
        call = prepare()  # Flower's strategies consume their replies
        started = time.process_time()
        try:
            call()
        except MemoryError:  # ByzFL's mixing holds clients x clients x parameters
            return Cost(math.nan, math.nan)
        seconds = min(seconds, time.process_time() - started)
    return Cost(seconds, _read_peak_mib() - before)


def _prepare_ours(rule: str, updates: Tensor) -> Prepare:
    weights = torch.ones(len(updates), dtype=torch.float64)
    state = OURS[rule].initial_state(updates.shape[1])
    return lambda: lambda: OURS[rule].aggregate(state, updates, weights)


def _prepare_flower(rule: str, updates: Tensor) -> Prepare | None:
    """Prepare Flower's aggregation of replies already received, as one array each."""
    if rule not in FLOWERS:
        return None
    compat.ensure_node_identity()
    name, options = FLOWERS[rule]
    count = len(updates)
    shapes: Shapes = {"all": (updates.shape[1],)}
    nodes = {"min_train_nodes": count, "min_available_nodes": count}
    strategy = getattr(flower, name)(**nodes, **options)
    arrays = to_record(torch.zeros(updates.shape[1]), shapes)
    instructions = list(
        strategy.configure_train(1, arrays, ConfigRecord(), ClientRoster(list(range(count))))
    )
    for instruction in instructions:
        compat.assign_message_id(instruction)
    sent = [Update(client, None, {}, 10, {"train_loss": 1.0}) for client in range(count)]

    def prepare() -> Callable[[], Any]:
        replies = make_replies(sent, list(updates), instructions, shapes)
        return lambda: strategy.aggregate_train(1, replies)

    return prepare


def _prepare_byzfl(rule: str, updates: Tensor) -> Prepare | None:
    if rule not in BYZFLS or not _has_byzfl():
        return None
    aggregators = importlib.import_module("byzfl.aggregators.aggregators")
    name, arguments = BYZFLS[rule]
    aggregate, values = getattr(aggregators, name)(*arguments), updates.numpy()
    if not rule.startswith("NNM"):
        return lambda: lambda: aggregate(values)
    mixing = importlib.import_module("byzfl.aggregators.preaggregators").NNM(ATTACKERS)
    return lambda: lambda: aggregate(mixing(values))


def _has_byzfl() -> bool:
    # Replaces the package's own __init__, which imports plotting libraries.
    package = ModuleType("byzfl")
    package.__path__ = [str(BYZFL / "byzfl")]
    sys.modules.setdefault("byzfl", package)
    try:
        importlib.import_module("byzfl.aggregators.aggregators")
    except ImportError:
        return False
    return True


def _read_peak_mib() -> float:
    """Return the peak memory of this process."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def make_table(rows: list[dict[str, Any]]) -> Table:
    """Return the rows as a table."""
    printed = Table(title=f"{CLIENTS} updates of {PARAMETERS:,} parameters, one thread")
    names = list(rows[0])
    for name in names:
        printed.add_column(name.replace("_", " "), justify="left" if name == "rule" else "right")
    for row in rows:
        printed.add_row(*format_cells(row))
    return printed


def format_cells(row: dict[str, Any]) -> Iterator[str]:
    """Yield the values of a row as text; an empty text if there is no such rule."""
    for name, value in row.items():
        if isinstance(value, str):
            yield value
        elif value is None or math.isnan(value):
            yield ""
        else:
            yield f"{value:.3f}" if name.endswith("seconds") else f"{value:.0f}"


if __name__ == "__main__":
    measured = measure_rules()
    Console().print(make_table(measured))
    write_json(RESULTS, measured)
