"""The messages between a round and its backend: settings, tasks and results of chunks."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from fl_sim.contracts import Failure, Update
from fl_sim.core.device import current_device
from fl_sim.core.sums import weighted_sum

Tensors = dict[str, Tensor]
NO_CLIENT = -1  # the client of a failure that lost a worker with several clients
MAX_CHUNK = 32  # clients; enough for a call to a worker to be cheap beside its work
MIN_CHUNKS = 32  # per round, if there are as many clients: workers stay evenly busy
MAX_CHUNK_VALUES = 1 << 25  # float32 values in the updates of a chunk: 128 MiB
MAX_BATCHED_CLIENTS = 25  # clients trained as one batch on a CPU; more are no faster
MAX_BATCHED_ON_DEVICE = 64  # likewise on an accelerator, where a call costs more than its work


@dataclass(frozen=True, eq=False)
class RoundConfig:
    """The settings of a round, the same for all its clients.

    Attributes:
        round: Number of the round, from 1.
        parameters: Parameters of the global model, `[p]`.
        buffers: Buffers of the global model, by name.
        received: Vectors that the aggregation rule broadcasts beside the model, by name.
        sum_updates: Whether the updates of a chunk are added up where they are made.
        needs_losses: Whether clients first report the loss of the global model.
        batch_clients: Whether clients that allow it are trained together as one batch.
        flower_config: Settings that one of Flower's strategies sends to its clients.
        clients: The clients that are asked to train, in ascending order.
        factors: The factor of each client's update in the sum, where updates are summed.
    """

    round: int
    parameters: Float[Tensor, " p"]
    buffers: Tensors
    received: Tensors = field(default_factory=dict)
    sum_updates: bool = False
    needs_losses: bool = False
    batch_clients: bool = False
    flower_config: Mapping[str, Any] = field(default_factory=dict)
    clients: list[int] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)

    @property
    def proximal_mu(self) -> float:
        """Weight of the proximal term, as Flower's FedProx sends it; 0 for none."""
        return float(self.flower_config.get("proximal-mu", 0.0))


@dataclass(frozen=True, eq=False)
class ClientTask:
    """The part of one client in a chunk.

    Attributes:
        client: Number of the client.
        factor: Factor of its update in the sum.
        state: Tensors that the client keeps between rounds, by name.
        attempt: Number of the attempt, from 0; it goes on if a dead worker lost earlier ones.
    """

    client: int
    factor: float = 1.0
    state: Tensors = field(default_factory=dict)
    attempt: int = 0


Chunk = tuple[ClientTask, ...]  # clients that one worker trains in one call, in client order


@dataclass(frozen=True, eq=False)
class ChunkResult:
    """The result of a chunk.

    Attributes:
        updates: Updates of the clients that succeeded, in client order; without their deltas if
            `total` is given.
        failures: Failures of all attempts.
        total: Sum of the deltas times their factors, `[p]`; the next chunk may overwrite it.
    """

    updates: list[Update]
    failures: list[Failure]
    total: Float[Tensor, " p"] | None = None


def max_batched_clients() -> int:
    """Return the largest number of clients that are trained as one batch."""
    return MAX_BATCHED_CLIENTS if current_device().type == "cpu" else MAX_BATCHED_ON_DEVICE


def cut_chunks(
    tasks: list[ClientTask], costs: list[float], batched: bool, size: int = 1
) -> list[Chunk]:
    """Cut a round's clients into chunks, the longest first.

    The cut depends only on the clients, the size of the model and, for batches, the kind of
    device, and sums are added chunk by chunk: the bits of a sum therefore do not depend on which
    worker computes which chunk.

    Args:
        tasks: The clients of the round.
        costs: Expected number of steps of each client. Neighbours in a chunk are alike in it, so
            that a batch of clients has little padding.
        batched: Whether clients are trained as batches.
        size: Number of parameters of the model.
    """
    if not tasks:
        return []
    order = sorted(range(len(tasks)), key=lambda i: (-costs[i], tasks[i].client))
    count = max(1, min(MAX_CHUNK, len(tasks) // MIN_CHUNKS, MAX_CHUNK_VALUES // size))
    if batched:
        num_chunks = -(-len(tasks) // max_batched_clients())
        count = -(-len(tasks) // num_chunks)  # as few chunks as possible, of even size
    parts = [order[start : start + count] for start in range(0, len(order), count)]
    return [tuple(sorted((tasks[i] for i in part), key=lambda t: t.client)) for part in parts]


def sum_deltas(
    updates: list[Update],
    factors: dict[int, float],
    buffer: Float[Tensor, "k p"] | None = None,
    out: Float64[Tensor, " p"] | None = None,
) -> Float64[Tensor, " p"]:
    """Return the sum of the deltas times their factors, in float64, in the order given.

    Args:
        updates: The updates, with deltas.
        factors: Factor of each client.
        buffer: Memory into which the deltas may have been written one after another; they are
            then not copied. A failed client, or one that sends other tensors, breaks this order.
        out: Receives the sum.
    """
    deltas = [update.delta for update in updates if update.delta is not None]
    expected = [] if buffer is None else [row.data_ptr() for row in buffer[: len(deltas)]]
    in_place = expected == [delta.data_ptr() for delta in deltas]
    stacked = buffer[: len(deltas)] if buffer is not None and in_place else torch.stack(deltas)
    weights = torch.tensor([factors[update.client] for update in updates], dtype=torch.float64)
    return weighted_sum(weights, stacked, out)


def finish_chunk(
    chunk: Chunk,
    updates: list[Update],
    failures: list[Failure],
    sum_updates: bool,
    buffer: Float[Tensor, "k p"] | None = None,
    out: Float64[Tensor, " p"] | None = None,
) -> ChunkResult:
    """Return the result of a chunk, with its deltas summed if `sum_updates`; see `sum_deltas`."""
    if not sum_updates or not updates:
        return ChunkResult(updates, failures)
    total = sum_deltas(updates, {task.client: task.factor for task in chunk}, buffer, out)
    return ChunkResult([replace(update, delta=None) for update in updates], failures, total)
