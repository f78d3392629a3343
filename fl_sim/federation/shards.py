"""The shards of all clients: their records, their sizes, and their inputs in each round."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from fl_sim.contracts import Client, ColludingClient, Shard
from fl_sim.federation.pool import Noise, add_noise
from fl_sim.models.features import to_trainable
from fl_sim.schedule import Schedule


@dataclass(frozen=True, eq=False)
class ClientShards:
    """The records of all clients, and the rows that belong to each.

    Attributes:
        schedule: The behaviour of each client in each round.
        inputs: Inputs of all records, images or cached features, `[n, ...]`; protected ones with
            the noise of the last clause that protects them.
        clean_inputs: Inputs of all records without noise, for the rounds before protection begins.
        labels: Labels of the records, `[n]`.
        protected: Boolean mask of the records that carry noise in any round, `[n]`.
        owners: Rows of the records of each client. Attackers that take part beside the clients
            come last, with the rows that they train on.
        num_classes: Number of classes.
        changed_inputs: Features of the images that clients change, by client, its behaviour, and
            the clauses whose noise images carry; empty if inputs are images.
        noise: The noise of each clause `Protects` of the layout; empty for a `Layout`.
    """

    schedule: Schedule
    inputs: Shaped[Tensor, "n ..."]
    clean_inputs: Shaped[Tensor, "n ..."]
    labels: Int64[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    owners: list[Int64[Tensor, " _"]]
    num_classes: int
    changed_inputs: Mapping[tuple[int, Client, tuple[int, ...]], Shaped[Tensor, "_ ..."]] = field(
        default_factory=dict
    )
    noise: tuple[Noise, ...] = ()
    _mixed: dict[tuple[int, ...], Shaped[Tensor, "n ..."]] = field(default_factory=dict)

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
        active = self.schedule.active_clauses(round_num)
        if not active or not self.noise:
            return self.inputs if active else self.clean_inputs
        if active not in self._mixed:
            self._mixed.clear()  # only the clauses of the latest round are kept
            layers = (self.noise[place] for place in active)
            self._mixed[active] = add_noise(self.clean_inputs, layers)
        return self._mixed[active]

    def round_protected(self, round_num: int) -> Bool[Tensor, " n"]:
        """Return a boolean mask of the records that carry noise in a round."""
        active = self.schedule.active_clauses(round_num)
        if active and not self.noise:
            return self.protected
        mask = torch.zeros_like(self.protected)
        for place in active:
            mask[self.noise[place].rows] = True
        return mask

    def shard(self, client: int, round_num: int = 1) -> Shard:
        """Return the records that a client trains on in a round."""
        rows = self.owners[client]
        # For images, several times as fast as inputs[rows].
        inputs = to_trainable(self.round_inputs(round_num).index_select(0, rows))
        noisy = self.round_protected(round_num).index_select(0, rows)
        shard = Shard(
            client, inputs, self.labels[rows], rows, self.num_classes, round_num, protected=noisy
        )
        if not self.changed_inputs:
            return shard
        behaviour = self.schedule.behaviour(client, round_num)
        active = self.schedule.active_clauses(round_num)
        changed = self.changed_inputs.get((client, behaviour, active))
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
