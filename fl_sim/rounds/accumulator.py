"""Accumulation of the updates of a round: a running sum for linear rules, a stack otherwise."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import Failure, Update
from fl_sim.core.device import CPU, current_device, free_memory, has_float64, move
from fl_sim.training.tasks import ChunkResult, RoundConfig
from fl_sim.training.update_checks import make_failure

STACK_COPIES = 3  # of a stack that a rule may need at once


@dataclass(frozen=True, eq=False)
class RoundUpdates:
    """The updates of a round.

    Attributes:
        updates: The valid updates, in client order, without their deltas.
        deltas: Their deltas, one row per update, if they are stacked; else None. They are on the
            device of the clients if it has memory for them, all else is on the CPU.
        total: Sum of the deltas times the factors of the round's settings, if not stacked.
        failures: Failures of all attempts, in client order.
    """

    updates: list[Update]
    deltas: Float[Tensor, "n p"] | None
    total: Float[Tensor, " p"] | None
    failures: list[Failure]

    @property
    def clients(self) -> Int64[Tensor, " n"]:
        """Clients that sent the updates."""
        return torch.tensor([update.client for update in self.updates], dtype=torch.int64)

    @property
    def weights(self) -> Float[Tensor, " n"]:
        """Number of examples of each client, as counted by the server."""
        sizes = [update.num_examples for update in self.updates]
        return torch.tensor(sizes, dtype=torch.float64)

    def drop(self, round_num: int, causes: dict[int, str]) -> "RoundUpdates":
        """Return the updates without some rows, which become failures of their clients.

        Args:
            round_num: Number of the round.
            causes: The reason why an update cannot be used, by row.
        """
        assert self.deltas is not None
        failures = [
            make_failure(round_num, self.updates[row].client, causes[row]) for row in sorted(causes)
        ]
        rows = self.remaining_rows(causes)
        return RoundUpdates(
            updates=[self.updates[row] for row in rows.tolist()],
            deltas=self.deltas[rows],
            total=None,
            failures=sorted(self.failures + failures, key=lambda failure: failure.client),
        )

    def remaining_rows(self, causes: dict[int, str]) -> Int64[Tensor, " m"]:
        """Return the rows that have no entry in `causes`."""
        rows = [row for row in range(len(self.updates)) if row not in causes]
        return torch.tensor(rows, dtype=torch.int64)


def find_stack_device(num_bytes: int) -> torch.device:
    """Return the device for a stack of updates: the current one if a rule can compute there."""
    device = current_device()
    if device == CPU or not has_float64(device):
        return CPU
    return device if STACK_COPIES * num_bytes <= free_memory(device) else CPU


class UpdateAccumulator:
    """Collects the results of chunks, which may come in any order.

    A sum needs the memory of two models for any number of clients, a stack that of one model per
    client. Chunks are summed by position, not by arrival: the result has the same bits every time.
    """

    def __init__(self, config: RoundConfig) -> None:
        """Create an accumulator for the clients of the round."""
        self.row_of_client = {client: row for row, client in enumerate(config.clients)}
        self.updates: dict[int, Update] = {}
        self.failures: list[Failure] = []
        self.pending_totals: dict[int, Tensor | None] = {}
        self.next_position = 0
        size, dtype = len(config.parameters), config.parameters.dtype
        self.total = torch.zeros(size, dtype=torch.float64) if config.sum_updates else None
        rows = len(config.clients)
        place = find_stack_device(rows * size * dtype.itemsize)
        empty = None if config.sum_updates else torch.empty(rows, size, dtype=dtype, device=place)
        self.deltas = empty

    def add(self, position: int, result: ChunkResult) -> None:
        """Add the result of the chunk at `position`."""
        self.failures += result.failures
        for update in result.updates:
            if self.deltas is not None:
                assert update.delta is not None
                self.deltas[self.row_of_client[update.client]] = update.delta
            if current_device() != CPU:
                update = move(replace(update, delta=None), CPU)
            self.updates[update.client] = update
        if self.total is not None:
            self.pending_totals[position] = None if result.total is None else result.total.cpu()
            self._add_in_order()

    def _add_in_order(self) -> None:
        """Add the totals of the chunks whose predecessors have all been added."""
        assert self.total is not None
        while self.next_position in self.pending_totals:
            total = self.pending_totals.pop(self.next_position)
            if total is not None:
                self.total += total
            self.next_position += 1

    def finish(self) -> RoundUpdates:
        """Return the updates of the round, in client order."""
        clients = sorted(self.updates)
        updates = [self.updates[client] for client in clients]
        failures = sorted(self.failures, key=lambda failure: failure.client)
        if self.deltas is None:
            return RoundUpdates(updates, None, self.total, failures)
        rows = [self.row_of_client[client] for client in clients]
        # Clients that failed leave gaps. Close them in place: the stack may be too large to copy.
        for target, source in enumerate(rows):
            if target != source:
                self.deltas[target] = self.deltas[source]
        return RoundUpdates(updates, self.deltas[: len(rows)], None, failures)
