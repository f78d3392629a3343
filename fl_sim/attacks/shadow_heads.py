"""Shadow heads: many linear heads over the same cached features, trained in one go.

Each head is trained exactly as it would be on its own: by mini-batches in an order of its own.
Only the arithmetic is shared: a step of all heads is one batched matrix product.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fl_sim import description
from fl_sim.attacks.signals import margin_of
from fl_sim.errors import require
from fl_sim.seeding import generator

CHUNK = 512  # records scored at once
GROUP = 16  # heads trained at once


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
        description.check_types(self)
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
    groups = [
        _Group(features, labels, members[first : first + GROUP], first, begin, training)
        for first in range(0, len(members), GROUP)
    ]
    for group in groups:
        for epoch in range(training.epochs):
            group.epoch(seed, epoch)
    weight, bias = [g.state.weight for g in groups], [g.state.bias for g in groups]
    return Heads(torch.cat(weight), torch.cat(bias))


class State(NamedTuple):
    """Heads and their momentum."""

    weight: Float[Tensor, "g y d"]
    bias: Float[Tensor, "g y"]
    weight_speed: Float[Tensor, "g y d"]
    bias_speed: Float[Tensor, "g y"]


class _Group:
    """A few heads in training: as many as the processor's cache holds."""

    def __init__(
        self,
        features: Float[Tensor, "n d"],
        labels: Int64[Tensor, " n"],
        members: Bool[Tensor, "g n"],
        first: int,
        start: Heads,
        training: HeadTraining,
    ) -> None:
        self.features, self.labels, self.first, self.training = features, labels, first, training
        self.own_rows = [own.nonzero().squeeze(1) for own in members]
        weight = start.weight.repeat(len(members), 1, 1)
        bias = start.bias.repeat(len(members), 1)
        self.state = State(weight, bias, torch.zeros_like(weight), torch.zeros_like(bias))

    def epoch(self, seed: int, number: int) -> None:
        """Take every head once through its records."""
        size = self.training.batch_size
        rows, weights = self._order(seed, number)
        for batch, share in zip(rows.split(size, 1), weights.split(size, 1), strict=True):
            self._step(batch, share)

    def _order(self, seed: int, epoch: int) -> tuple[Int64[Tensor, "g l"], Float[Tensor, "g l"]]:
        """Return the records of an epoch in each head's own order, and their weights.

        Heads with fewer records are padded with a record of weight 0. The weights of each batch
        sum to 1: the gradient is the mean over a batch, whatever its length.
        """
        size = max(len(own) for own in self.own_rows)
        rows = torch.zeros(len(self.own_rows), size, dtype=torch.int64)
        weights = torch.zeros(len(self.own_rows), size)
        for i, own in enumerate(self.own_rows):
            rng = generator(seed, "head", self.first + i, "epoch", epoch)
            rows[i, : len(own)] = own[torch.randperm(len(own), generator=rng)]
            weights[i, : len(own)] = 1.0
        batches = weights.split(self.training.batch_size, 1)
        return rows, torch.cat([b / b.sum(1, keepdim=True).clamp(min=1) for b in batches], 1)

    def _step(self, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]) -> None:
        """Take one step of every head that has records in its batch; others rest until the next
        epoch.
        """
        own = (weights.sum(1) > 0).nonzero().squeeze(1)
        if len(own) == len(rows):
            self._descend(self.state, rows, weights)
            return
        some = State(*(part[own] for part in self.state))
        self._descend(some, rows[own], weights[own])
        for part, moved in zip(self.state, some, strict=True):
            part[own] = moved

    def _descend(
        self, state: State, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
    ) -> None:
        """Move the heads of `state` in place."""
        settings, inputs = self.training, self._inputs(rows)
        logits = torch.baddbmm(state.bias[:, :, None], state.weight, inputs.transpose(1, 2))
        error = logits.softmax(1)
        error.scatter_add_(1, self.labels[rows][:, None], -torch.ones_like(error[:, :1]))
        error *= weights[:, None]
        state.weight_speed.baddbmm_(error, inputs, beta=settings.momentum)
        state.bias_speed.mul_(settings.momentum).add_(error.sum(2))
        if settings.weight_decay:
            state.weight_speed.add_(state.weight, alpha=settings.weight_decay)
            state.bias_speed.add_(state.bias, alpha=settings.weight_decay)
        state.weight.sub_(state.weight_speed, alpha=settings.learning_rate)
        state.bias.sub_(state.bias_speed, alpha=settings.learning_rate)

    @cached_property
    def _buffer(self) -> Float[Tensor, "r d"]:
        rows = len(self.own_rows) * self.training.batch_size
        return self.features.new_empty(rows, self.features.shape[1])

    def _inputs(self, rows: Int64[Tensor, "g b"]) -> Float[Tensor, "g b d"]:
        """Gather a batch into memory that is used again: fresh pages cost more than the sums."""
        chosen = self._buffer[: rows.numel()]
        torch.index_select(self.features, 0, rows.flatten(), out=chosen)
        return chosen.view(*rows.shape, -1)
