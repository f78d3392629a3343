"""The shards of all clients: their records, their sizes, and their inputs in each round."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from fl_sim.contracts import Client, ColludingClient, Shard
from fl_sim.models.features import to_trainable
from fl_sim.schedule import Schedule


@dataclass(frozen=True, eq=False)
class ClientShards:
    """The records of all clients, and the rows that belong to each.

    Attributes:
        schedule: The behaviour of each client in each round.
        inputs: Inputs of all records, images or cached features, `[n, ...]`.
        clean_inputs: Inputs of all records without noise, for the rounds before protection begins.
        labels: Labels of the records, `[n]`.
        protected: Boolean mask of the records that carry noise, once protection has begun, `[n]`.
        owners: Rows of the records of each client. Attackers that take part beside the clients
            come last, with the rows that they train on.
        num_classes: Number of classes.
        changed_inputs: Features of the images that clients change, by client, its behaviour, and
            whether protected images carry their noise; empty if inputs are images.
    """

    schedule: Schedule
    inputs: Shaped[Tensor, "n ..."]
    clean_inputs: Shaped[Tensor, "n ..."]
    labels: Int64[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    owners: list[Int64[Tensor, " _"]]
    num_classes: int
    changed_inputs: Mapping[tuple[int, Client, bool], Shaped[Tensor, "_ ..."]] = field(
        default_factory=dict
    )

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.schedule.experiment.seed

    @cached_property
    def sizes(self) -> list[int]:
        """The number of examples per client, by which the server weights updates.

        Extra attackers count as much as the average client that holds records.
        """
        holders = self.owners[: self.schedule.experiment.data.num_clients]
        sizes = [len(rows) for rows in holders]
        mean = round(sum(sizes) / max(1, sum(map(bool, sizes))))
        return sizes + [mean] * (len(self.owners) - len(holders))

    def round_inputs(self, round_num: int) -> Shaped[Tensor, "n ..."]:
        """Return the inputs of all records in a round."""
        return self.inputs if self.schedule.protects(round_num) else self.clean_inputs

    def shard(self, client: int, round_num: int = 1) -> Shard:
        """Return the records that a client trains on in a round."""
        rows = self.owners[client]
        # For images, several times as fast as inputs[rows].
        inputs = to_trainable(self.round_inputs(round_num).index_select(0, rows))
        noisy = self.protected.index_select(0, rows) & self.schedule.protects(round_num)
        shard = Shard(
            client, inputs, self.labels[rows], rows, self.num_classes, round_num, protected=noisy
        )
        if not self.changed_inputs:
            return shard
        behaviour, protects = (
            self.schedule.behaviour(client, round_num),
            self.schedule.protects(round_num),
        )
        changed = self.changed_inputs.get((client, behaviour, protects))
        return shard if changed is None else replace(shard, changed_inputs=to_trainable(changed))


def assign_attacker_rows(
    schedule: Schedule, owners: Iterable[Int64[Tensor, " _"]]
) -> list[Int64[Tensor, " _"]]:
    """Return the rows that each extra attacker trains on.

    Colluding attackers train on none; the others on those of an honest client, in turn.
    """
    nothing = torch.empty(0, dtype=torch.int64)
    with_data = [rows for rows in owners if len(rows)]
    extra: list[Int64[Tensor, " _"]] = []
    for adversary, clients in schedule.extra_attackers:
        colludes = isinstance(adversary.client, ColludingClient)
        places = range(len(clients))
        extra += [nothing if colludes else with_data[k % len(with_data)] for k in places]
    return extra
