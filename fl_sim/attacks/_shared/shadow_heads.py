"""Shadow heads: many linear heads over the same cached features, trained in one go.

Each head is trained exactly as it would be on its own: by mini-batches in an order of its own.
Only the arithmetic is shared: a step of all heads is one batched matrix product.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fl_sim.contracts.attacks import margin_of
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator

CHUNK = 512  # records scored at once
GROUP = 16  # heads trained at once
GATHER_COST = 200  # multiplications in the time that it takes to fetch an inner product


@dataclass(frozen=True)
class HeadTraining:
    """How each head is trained: stochastic gradient descent on the cross-entropy.

    Attributes:
        learning_rate, momentum, weight_decay: of the optimiser.
        batch_size, epochs: over the records that a head is trained on.
    """

    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 32
    epochs: int = 20

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(self.weight_decay >= 0, "weight_decay", "at least 0", self.weight_decay)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)


@dataclass(frozen=True, eq=False)
class Heads:
    """Trained heads: logits are `features @ weight.T + bias`."""

    weight: Float[Tensor, "m y d"]
    bias: Float[Tensor, "m y"]

    def margins(
        self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]
    ) -> Float[Tensor, "m n"]:
        """Return the margin of each record under each head: one matrix product."""
        count, classes, _ = self.weight.shape
        stacked = self.weight.flatten(0, 1).T
        found = []
        for rows in torch.arange(len(labels)).split(CHUNK):
            logits = (features[rows] @ stacked).view(-1, count, classes) + self.bias
            found.append(margin_of(logits.transpose(0, 1), labels[rows]))
        return torch.cat(found, 1)


def train_heads(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    members: Bool[Tensor, "m n"],
    num_classes: int,
    training: HeadTraining,
    seed: int,
    start: Heads | None = None,
) -> Heads:
    """Train one head a row of `members`, each on the records of its row.

    Args:
        features: of all records, which are shared.
        labels: of all records.
        members: who is trained on what; every head needs a record.
        num_classes: outputs of a head.
        training: how.
        seed: names the orders: same seed, same bits; each head has an order of its own.
        start: one head that all begin with, as clients are sent it; None: zero.
    """
    require(bool(members.any(1).all()), "members", "a record for every head", "a head with none")
    dim = features.shape[1]
    begin = start or Heads(torch.zeros(1, num_classes, dim), torch.zeros(1, num_classes))
    data = _Data(features, labels, begin)
    kind = (
        _RecordGroup
        if _records_are_cheaper(data, members, num_classes, training)
        else _FeatureGroup
    )
    found = []
    for first in range(0, len(members), GROUP):
        group = kind(data, members[first : first + GROUP], first, training)
        for epoch in range(training.epochs):
            group.run_epoch(seed, epoch)
        found.append(group.heads())
    return Heads(torch.cat([h.weight for h in found]), torch.cat([h.bias for h in found]))


@dataclass(frozen=True, eq=False)
class _Data:
    """What all heads learn from, and begin with."""

    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    start: Heads

    @cached_property
    def gram_matrix(self) -> Float[Tensor, "n n"]:
        """Inner products; a bias is the weight of a feature that is always 1."""
        return self.features @ self.features.T + 1

    @cached_property
    def start_logits(self) -> Float[Tensor, "n y"]:
        """What the start says of each record."""
        return self.features @ self.start.weight[0].T + self.start.bias


def _records_are_cheaper(
    data: _Data, members: Bool[Tensor, "m n"], num_classes: int, training: HeadTraining
) -> bool:
    """Return whether heads cost less as sums of records, by the multiplications of one head."""
    count, dim = data.features.shape
    own, work = int(members.sum(1).max()), training.epochs * num_classes
    by_record = count * count * dim / len(members) + own * own * (GATHER_COST + work)
    return by_record < 2 * own * dim * work and training.weight_decay == 0


State = tuple[Tensor, ...]  # what a step moves, in place; a row for each head


class _HeadGroup(ABC):
    """A few heads in training: as many as the processor's cache holds."""

    state: State
    head_rows: list[Int64[Tensor, " r"]]  # of the table, for each head
    table: Float[Tensor, "t k"]  # what is gathered for a batch
    labels: Int64[Tensor, " t"]  # of the table's rows

    @final
    def __init__(
        self, data: _Data, members: Bool[Tensor, "g n"], first: int, training: HeadTraining
    ) -> None:
        self.data, self.first, self.training = data, first, training
        self.records = [own.nonzero().squeeze(1) for own in members]
        self.initialise()

    @abstractmethod
    def initialise(self) -> None:
        """Set the table, its labels, each head's rows of it, and the state to begin with."""

    @abstractmethod
    def heads(self) -> Heads:
        """Return the heads as they are now."""

    @abstractmethod
    def update(
        self, state: State, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
    ) -> None:
        """Take one step of the heads of `state`, on rows of the table, in place."""

    @final
    def run_epoch(self, seed: int, number: int) -> None:
        """Take every head once through its records."""
        size = self.training.batch_size
        rows, weights = self._draw_order(seed, number)
        for batch, share in zip(rows.split(size, 1), weights.split(size, 1), strict=True):
            self._take_step(batch, share)

    def _draw_order(
        self, seed: int, epoch: int
    ) -> tuple[Int64[Tensor, "g l"], Float[Tensor, "g l"]]:
        """Return the rows of an epoch in each head's own order, and their weights.

        Heads with fewer records are padded with one of weight 0. The weights of each batch
        sum to 1: the gradient is the mean over a batch, whatever its length.
        """
        size = max(len(own) for own in self.head_rows)
        rows = torch.stack([own[:1].expand(size) for own in self.head_rows])
        weights = torch.zeros(len(self.head_rows), size)
        for i, own in enumerate(self.head_rows):
            rng = generator(seed, "head", self.first + i, "epoch", epoch)
            rows[i, : len(own)] = own[torch.randperm(len(own), generator=rng)]
            weights[i, : len(own)] = 1.0
        batches = weights.split(self.training.batch_size, 1)
        return rows, torch.cat([b / b.sum(1, keepdim=True).clamp(min=1) for b in batches], 1)

    def _take_step(self, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]) -> None:
        """Take one step of every head that has records in its batch; others rest until the next
        epoch.
        """
        own = (weights.sum(1) > 0).nonzero().squeeze(1)
        if len(own) == len(rows):
            self.update(self.state, rows, weights)
            return
        some = tuple(part[own] for part in self.state)
        self.update(some, rows[own], weights[own])
        for part, moved in zip(self.state, some, strict=True):
            part[own] = moved

    @final
    def gather(self, rows: Int64[Tensor, "g b"]) -> Float[Tensor, "g b k"]:
        """Gather a batch into memory that is used again: fresh pages cost more than the sums."""
        chosen = self._buffer[: rows.numel()]
        torch.index_select(self.table, 0, rows.flatten(), out=chosen)
        return chosen.view(*rows.shape, -1)

    @cached_property
    def _buffer(self) -> Float[Tensor, "r k"]:
        rows = len(self.head_rows) * self.training.batch_size
        return self.table.new_empty(rows, self.table.shape[1])


@final
class _FeatureGroup(_HeadGroup):
    """Heads as what they are: a weight for each feature."""

    def initialise(self) -> None:
        """Begin with a copy of the start for each head; the table is that of all records."""
        self.table, self.labels, self.head_rows = self.data.features, self.data.labels, self.records
        weight = self.data.start.weight.repeat(len(self.records), 1, 1)
        bias = self.data.start.bias.repeat(len(self.records), 1)
        self.state = (weight, bias, torch.zeros_like(weight), torch.zeros_like(bias))

    def heads(self) -> Heads:
        """Return the heads as they are now."""
        return Heads(*self.state[:2])

    def update(
        self, state: State, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
    ) -> None:
        """Take one step of the heads of `state`, in place."""
        settings, inputs = self.training, self.gather(rows)
        weight, bias, weight_speed, bias_speed = state
        logits = torch.baddbmm(bias[:, :, None], weight, inputs.transpose(1, 2))
        error = _logit_gradient(logits, self.labels[rows], weights)
        weight_speed.baddbmm_(error, inputs, beta=settings.momentum)
        bias_speed.mul_(settings.momentum).add_(error.sum(2))
        if settings.weight_decay:
            weight_speed.add_(weight, alpha=settings.weight_decay)
            bias_speed.add_(bias, alpha=settings.weight_decay)
        weight.sub_(weight_speed, alpha=settings.learning_rate)
        bias.sub_(bias_speed, alpha=settings.learning_rate)


@final
class _RecordGroup(_HeadGroup):
    """Heads as sums of their own records: cheaper where records are few beside features.

    Every gradient is a sum of records, so a head is its start plus a sum of records, and a step
    needs their inner products only: it moves the shares of its batch, and no weights. The start
    counts as one more record for each class, whose share stays 1. With weight decay it would
    have to shrink; such heads are trained as they are.
    """

    def initialise(self) -> None:
        """Begin with no share of any record; the table has a row for each head and record."""
        data, count, classes = self.data, len(self.records), self.data.start.bias.shape[1]
        self.size = max(map(len, self.records))
        self.head_rows = [i * self.size + torch.arange(len(o)) for i, o in enumerate(self.records)]
        self.labels = torch.zeros(count * self.size, dtype=torch.int64)
        self.table = torch.zeros(len(self.labels), self.size + classes)
        for rows, records in zip(self.head_rows, self.records, strict=True):
            self.labels[rows] = data.labels[records]
            self.table[rows, : len(rows)] = data.gram_matrix[records].index_select(1, records)
            self.table[rows, self.size :] = data.start_logits[records]
        shares = torch.zeros(count, classes, self.size + classes)
        shares[:, :, self.size :] = torch.eye(classes)
        self.state = (shares, torch.zeros_like(shares))

    def heads(self) -> Heads:
        """Return the heads as they are now."""
        own = self.state[0][:, :, : self.size]
        sums = [
            share[:, : len(records)] @ self.data.features[records]
            for share, records in zip(own, self.records, strict=True)
        ]
        start = self.data.start
        return Heads(torch.stack(sums) + start.weight, own.sum(2) + start.bias)

    def update(
        self, state: State, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
    ) -> None:
        """Take one step of the heads of `state`, in place."""
        shares, speed = state
        logits = torch.bmm(shares, self.gather(rows).transpose(1, 2))
        error = _logit_gradient(logits, self.labels[rows], weights)
        places = (rows % self.size)[:, None].expand_as(error)
        speed.mul_(self.training.momentum).scatter_add_(2, places, error)
        shares.sub_(speed, alpha=self.training.learning_rate)


def _logit_gradient(
    logits: Float[Tensor, "g y b"], labels: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
) -> Float[Tensor, "g y b"]:
    """Return the gradient of the weighted cross-entropy by the logits."""
    error = logits.softmax(1)
    error.scatter_add_(1, labels[:, None], -torch.ones_like(error[:, :1]))
    return error.mul_(weights[:, None])
