"""A round's updates as they come in: added up where the rule is linear, else stacked."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import Failure, Update
from fl_sim.training.tasks import ChunkResult, RoundConfig
from fl_sim.training.update_checks import make_failure


@dataclass(frozen=True, eq=False)
class RoundUpdates:
    """What a round brought in.

    Attributes:
        updates: valid ones, in client order; without deltas.
        rows: their deltas, where they are stacked.
        total: the sum of the deltas times the factors that were ordered, where they are not.
        failures: of all attempts, in client order.
    """

    updates: list[Update]
    deltas: Float[Tensor, "n p"] | None
    total: Float[Tensor, " p"] | None
    failures: list[Failure]

    @property
    def clients(self) -> Int64[Tensor, " n"]:
        """Who sent them."""
        return torch.tensor([update.client for update in self.updates], dtype=torch.int64)

    @property
    def weights(self) -> Float[Tensor, " n"]:
        """The number of examples of each, as the server counts them."""
        sizes = [update.num_examples for update in self.updates]
        return torch.tensor(sizes, dtype=torch.float64)

    def drop(self, round_num: int, causes: dict[int, str]) -> "RoundUpdates":
        """Return what is left where some rows turn out to be unusable in round `number`.

        Args:
            number: of the round.
            causes: why, by row.
        """
        assert self.deltas is not None
        failures = [
            make_failure(round_num, self.updates[row].client, causes[row]) for row in sorted(causes)
        ]
        left = self.remaining_rows(causes)
        return RoundUpdates(
            updates=[self.updates[row] for row in left.tolist()],
            deltas=self.deltas[left],
            total=None,
            failures=sorted(self.failures + failures, key=lambda own: own.client),
        )

    def remaining_rows(self, causes: dict[int, str]) -> Int64[Tensor, " m"]:
        """Return the rows that no cause speaks against."""
        rows = [row for row in range(len(self.updates)) if row not in causes]
        return torch.tensor(rows, dtype=torch.int64)


class UpdateAccumulator:
    """Takes the chunks of a round in any order, and adds them up in one.

    What is summed needs the memory of two models whatever the number of clients; what is
    stacked, that of one model a client.
    """

    def __init__(self, config: RoundConfig) -> None:
        """Wait for the updates of the clients that the round asks."""
        self.row_of_client = {client: row for row, client in enumerate(config.clients)}
        self.updates: dict[int, Update] = {}
        self.failures: list[Failure] = []
        self.pending_totals: dict[int, Tensor | None] = {}
        self.next_position = 0
        size = len(config.parameters)
        self.total = torch.zeros(size, dtype=torch.float64) if config.sum_updates else None
        self.deltas = None if config.sum_updates else torch.empty(len(config.clients), size)

    def add(self, position: int, result: ChunkResult) -> None:
        """Take what became of the chunk at `position`."""
        self.failures += result.failures
        for update in result.updates:
            self.updates[update.client] = update
            if self.deltas is not None:
                assert update.delta is not None
                self.deltas[self.row_of_client[update.client]] = update.delta
        if self.total is not None:
            self.pending_totals[position] = result.total
            self._add_in_order()

    def _add_in_order(self) -> None:
        """Add the totals whose turn it is: sums do not depend on who was first."""
        assert self.total is not None
        while self.next_position in self.pending_totals:
            total = self.pending_totals.pop(self.next_position)
            if total is not None:
                self.total += total
            self.next_position += 1

    def finish(self) -> RoundUpdates:
        """Return everything, in client order."""
        clients = sorted(self.updates)
        updates = [self.updates[client] for client in clients]
        failures = sorted(self.failures, key=lambda failure: failure.client)
        if self.deltas is None:
            return RoundUpdates(updates, None, self.total, failures)
        kept = [self.row_of_client[client] for client in clients]
        for row, place in enumerate(kept):  # close the gaps in place: the stack can be large
            if row != place:
                self.deltas[row] = self.deltas[place]
        return RoundUpdates(updates, self.deltas[: len(kept)], None, failures)
