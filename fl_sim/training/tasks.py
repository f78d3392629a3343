"""What a round asks of its clients, and what comes back: the same words for every crew."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Failure, Update
from fl_sim.core.sums import weighted_sum

Tensors = dict[str, Tensor]
NO_CLIENT = -1  # whom a failure is about where a worker is lost that had many clients
MAX_CHUNK = 32  # clients; enough to make a call to a worker cheap beside its work
MIN_CHUNKS = 32  # a round, at least where there are as many clients: workers stay evenly busy
MAX_CHUNK_VALUES = 1 << 25  # of the updates of a chunk: 128 MiB
MAX_BATCHED_CLIENTS = 25  # clients that are trained as one batch: more gain nothing


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
        """What Flower's FedProx asks its clients to apply."""
        return float(self.flower_config.get("proximal-mu", 0.0))


@dataclass(frozen=True, eq=False)
class ClientTask:
    """One client's part of a chunk: its factor in the sum, and what it kept from before.

    `attempt` counts from 0, and goes on where a dead worker took the earlier ones with it.
    """

    client: int
    factor: float = 1.0
    state: Tensors = field(default_factory=dict)
    attempt: int = 0


Chunk = tuple[ClientTask, ...]  # clients that one worker trains in one call, in client order


@dataclass(frozen=True, eq=False)
class ChunkResult:
    """What became of a chunk.

    Attributes:
        updates: of the clients that delivered, in client order; without their deltas where
            `total` has them.
        failures: of every attempt that failed.
        total: the sum of the deltas times their factors; the next chunk may overwrite it.
    """

    updates: list[Update]
    failures: list[Failure]
    total: Float[Tensor, " p"] | None = None


@dataclass(frozen=True, eq=False)
class ChunkBuffers:
    """Memory that is used for one chunk after another: fresh pages cost more than sums do."""

    rows: Float[Tensor, "n p"]
    total: Float[Tensor, " p"]

    @classmethod
    def of(cls, count: int, size: int) -> "ChunkBuffers":
        """Return room for a chunk of `count` clients."""
        return cls(torch.empty(count, size), torch.empty(size, dtype=torch.float64))


def cut_chunks(
    tasks: list[ClientTask], costs: list[float], batched: bool, size: int = 1
) -> list[Chunk]:
    """Cut a round's clients into chunks, the longest first.

    The cut depends on nothing but the round's clients and the model's size, and sums are added
    up chunk by chunk: so the bits of a sum do not depend on who computes which chunk. What is
    trained as one batch is alike in size, so that little of the batch is padding.
    """
    if not tasks:
        return []
    order = sorted(range(len(tasks)), key=lambda i: (-costs[i], tasks[i].client))
    count = max(1, min(MAX_CHUNK, len(tasks) // MIN_CHUNKS, MAX_CHUNK_VALUES // size))
    if batched:
        count = -(
            -len(tasks) // -(-len(tasks) // MAX_BATCHED_CLIENTS)
        )  # in as few, even chunks as fit
    parts = [order[start : start + count] for start in range(0, len(order), count)]
    return [tuple(sorted((tasks[i] for i in part), key=lambda t: t.client)) for part in parts]


def sum_deltas(
    updates: list[Update], factors: dict[int, float], buffers: ChunkBuffers | None = None
) -> Float[Tensor, " p"]:
    """Return the sum of the deltas times their factors, in float64, in the order given.

    Deltas that were written into `room` one after the other are read there, without a copy.
    """
    deltas = [update.delta for update in updates if update.delta is not None]
    places = [] if buffers is None else [row.data_ptr() for row in buffers.rows[: len(deltas)]]
    in_place = places == [delta.data_ptr() for delta in deltas]
    rows = buffers.rows[: len(deltas)] if buffers and in_place else torch.stack(deltas)
    shares = torch.tensor([factors[update.client] for update in updates], dtype=torch.float64)
    return weighted_sum(shares, rows, buffers.total if buffers else None)


def finish_chunk(
    chunk: Chunk,
    updates: list[Update],
    failures: list[Failure],
    adds_up: bool,
    buffers: ChunkBuffers | None = None,
) -> ChunkResult:
    """Return a chunk's outcome, its deltas added up where the order says so."""
    if not adds_up or not updates:
        return ChunkResult(updates, failures)
    total = sum_deltas(updates, {task.client: task.factor for task in chunk}, buffers)
    return ChunkResult([replace(update, delta=None) for update in updates], failures, total)
