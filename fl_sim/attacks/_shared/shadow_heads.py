"""Shadow heads: many linear heads over the same cached features, trained together.

Each head is trained exactly as if it were alone, by mini-batches in its own order. Only the
arithmetic is shared: a step of all heads is one batched matrix product.
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
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.seeding import generator

CHUNK = 512  # records scored at once
GROUP = 16  # heads trained at once, so that their weights stay in the processor's cache
GATHER_COST = 200  # multiplications in the time of one lookup of an inner product


@dataclass(frozen=True)
class HeadTraining:
    """Settings of the training of a head: SGD on the cross-entropy.

    Attributes:
        learning_rate, momentum, weight_decay: Settings of the optimiser, as in PyTorch's SGD.
        batch_size: Number of records per batch.
        epochs: Number of passes over a head's records.
    """

    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 32
    epochs: int = 20

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require_above(self, 0, "learning_rate")
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require_at_least(self, 0, "weight_decay")
        require_at_least(self, 1, "batch_size", "epochs")


@dataclass(frozen=True, eq=False)
class Heads:
    """Linear heads with logits `features @ weight.T + bias`."""

    weight: Float[Tensor, "m y d"]
    bias: Float[Tensor, "m y"]

    def margins(
        self, features: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]
    ) -> Float[Tensor, "m n"]:
        """Return the margin of each record under each head, by one matrix product per chunk."""
        count, classes, _ = self.weight.shape
        stacked = self.weight.flatten(0, 1).T
        margins = []
        for rows in torch.arange(len(labels)).split(CHUNK):
            logits = (features[rows] @ stacked).view(-1, count, classes) + self.bias
            margins.append(margin_of(logits.transpose(0, 1), labels[rows]))
        return torch.cat(margins, 1)


def train_heads(
    features: Float[Tensor, "n d"],
    labels: Int64[Tensor, " n"],
    members: Bool[Tensor, "m n"],
    num_classes: int,
    training: HeadTraining,
    seed: int,
    start: Heads | None = None,
) -> Heads:
    """Return one trained head per row of `members`.

    Args:
        features: Features of all records, shared by the heads.
        labels: Labels of all records.
        members: Mask of the records that each head is trained on, at least one per head.
        num_classes: Number of outputs of a head.
        training: Settings of the optimiser.
        seed: Seed of the order of each head's records.
        start: A single head that all heads start from; None for zeros.
    """
    require(bool(members.any(1).all()), "members", "a record for every head", "a head with none")
    dim = features.shape[1]
    start = start or Heads(torch.zeros(1, num_classes, dim), torch.zeros(1, num_classes))
    data = _Data(features, labels, start)
    kind = (
        _RecordGroup
        if _records_are_cheaper(data, members, num_classes, training)
        else _FeatureGroup
    )
    heads = []
    for first in range(0, len(members), GROUP):
        group = kind(data, members[first : first + GROUP], first, training)
        for epoch in range(training.epochs):
            group.run_epoch(seed, epoch)
        heads.append(group.heads())
    return Heads(torch.cat([h.weight for h in heads]), torch.cat([h.bias for h in heads]))


@dataclass(frozen=True, eq=False)
class _Data:
    """Training data and the start of all heads."""

    features: Float[Tensor, "n d"]
    labels: Int64[Tensor, " n"]
    start: Heads

    @cached_property
    def gram_matrix(self) -> Float[Tensor, "n n"]:
        """Inner products of the records; the 1 is the feature that belongs to the bias."""
        return self.features @ self.features.T + 1

    @cached_property
    def start_logits(self) -> Float[Tensor, "n y"]:
        """Logits of each record under the start."""
        return self.features @ self.start.weight[0].T + self.start.bias


def _records_are_cheaper(
    data: _Data, members: Bool[Tensor, "m n"], num_classes: int, training: HeadTraining
) -> bool:
    """Return whether heads cost less as sums of records, by the multiplications of one head."""
    count, dim = data.features.shape
    size, work = int(members.sum(1).max()), training.epochs * num_classes
    by_record = count * count * dim / len(members) + size * size * (GATHER_COST + work)
    return by_record < 2 * size * dim * work and training.weight_decay == 0


State = tuple[Tensor, ...]  # tensors that a step changes in place, one row per head


class _HeadGroup(ABC):
    """A group of at most `GROUP` heads in training.

    Attributes:
        state: Tensors that a step changes in place, one row per head.
        head_rows: Rows of the table that belong to each head.
        table: Inputs that are gathered for a batch.
        labels: Labels of the table's rows.
    """

    state: State
    head_rows: list[Int64[Tensor, " r"]]
    table: Float[Tensor, "t k"]
    labels: Int64[Tensor, " t"]

    @final
    def __init__(
        self, data: _Data, members: Bool[Tensor, "g n"], first: int, training: HeadTraining
    ) -> None:
        self.data, self.first, self.training = data, first, training
        self.records = [mask.nonzero().squeeze(1) for mask in members]
        self.initialise()

    @abstractmethod
    def initialise(self) -> None:
        """Set the table, its labels, each head's rows of it, and the initial state."""

    @abstractmethod
    def heads(self) -> Heads:
        """Return the heads in their current state."""

    @abstractmethod
    def update(
        self, state: State, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
    ) -> None:
        """Update `state` in place by one step on rows of the table."""

    @final
    def run_epoch(self, seed: int, number: int) -> None:
        """Train every head for one pass over its records."""
        size = self.training.batch_size
        rows, weights = self._draw_order(seed, number)
        for batch, batch_weights in zip(rows.split(size, 1), weights.split(size, 1), strict=True):
            self._take_step(batch, batch_weights)

    def _draw_order(
        self, seed: int, epoch: int
    ) -> tuple[Int64[Tensor, "g l"], Float[Tensor, "g l"]]:
        """Return the rows of an epoch in each head's own order, and their weights.

        Heads with fewer records are padded with a record of weight 0. The weights of each batch
        sum to 1: the gradient is the mean over a batch, whatever its length.
        """
        size = max(map(len, self.head_rows))
        rows = torch.stack([head[:1].expand(size) for head in self.head_rows])
        weights = torch.zeros(len(self.head_rows), size)
        for i, head in enumerate(self.head_rows):
            rng = generator(seed, "head", self.first + i, "epoch", epoch)
            rows[i, : len(head)] = head[torch.randperm(len(head), generator=rng)]
            weights[i, : len(head)] = 1.0
        batches = weights.split(self.training.batch_size, 1)
        return rows, torch.cat([b / b.sum(1, keepdim=True).clamp(min=1) for b in batches], 1)

    def _take_step(self, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]) -> None:
        """Take one step of every head that has records in its batch; leave others unchanged."""
        active = (weights.sum(1) > 0).nonzero().squeeze(1)
        if len(active) == len(rows):
            self.update(self.state, rows, weights)
            return
        # Momentum alone would move a head without records: it is left out of the step.
        state = tuple(part[active] for part in self.state)
        self.update(state, rows[active], weights[active])
        for part, updated in zip(self.state, state, strict=True):
            part[active] = updated

    @final
    def gather(self, rows: Int64[Tensor, "g b"]) -> Float[Tensor, "g b k"]:
        """Return the table's rows of a batch, in a reused buffer: new pages would cost more."""
        batch = self._buffer[: rows.numel()]
        torch.index_select(self.table, 0, rows.flatten(), out=batch)
        return batch.view(*rows.shape, -1)

    @cached_property
    def _buffer(self) -> Float[Tensor, "r k"]:
        rows = len(self.head_rows) * self.training.batch_size
        return self.table.new_empty(rows, self.table.shape[1])


@final
class _FeatureGroup(_HeadGroup):
    """Heads in their usual form: one weight per feature."""

    def initialise(self) -> None:
        """Start each head with a copy of `start`; the table holds the features of all records."""
        self.table, self.labels, self.head_rows = self.data.features, self.data.labels, self.records
        weight = self.data.start.weight.repeat(len(self.records), 1, 1)
        bias = self.data.start.bias.repeat(len(self.records), 1)
        self.state = (weight, bias, torch.zeros_like(weight), torch.zeros_like(bias))

    def heads(self) -> Heads:
        """Return the heads in their current state."""
        return Heads(*self.state[:2])

    def update(
        self, state: State, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
    ) -> None:
        """Update `state` in place by one step."""
        settings, inputs = self.training, self.gather(rows)
        weight, bias, weight_momentum, bias_momentum = state
        logits = torch.baddbmm(bias[:, :, None], weight, inputs.transpose(1, 2))
        gradient = _logit_gradient(logits, self.labels[rows], weights)
        weight_momentum.baddbmm_(gradient, inputs, beta=settings.momentum)
        bias_momentum.mul_(settings.momentum).add_(gradient.sum(2))
        if settings.weight_decay:
            weight_momentum.add_(weight, alpha=settings.weight_decay)
            bias_momentum.add_(bias, alpha=settings.weight_decay)
        weight.sub_(weight_momentum, alpha=settings.learning_rate)
        bias.sub_(bias_momentum, alpha=settings.learning_rate)


@final
class _RecordGroup(_HeadGroup):
    """Heads as weighted sums of their records: cheaper if there are few records per feature.

    Every gradient is a sum of records, so a head is its start plus a weighted sum of records, and
    a step needs only their inner products: it changes the coefficients of its batch instead of
    the weights. The start counts as one more record per class, with a constant coefficient of 1.
    Weight decay would shrink it; heads with weight decay are trained in their usual form.
    """

    def initialise(self) -> None:
        """Start with coefficients of 0; the table has one row per head and record."""
        data, count, classes = self.data, len(self.records), self.data.start.bias.shape[1]
        self.size = max(map(len, self.records))
        self.head_rows = [i * self.size + torch.arange(len(r)) for i, r in enumerate(self.records)]
        self.labels = torch.zeros(count * self.size, dtype=torch.int64)
        self.table = torch.zeros(len(self.labels), self.size + classes)
        for rows, records in zip(self.head_rows, self.records, strict=True):
            self.labels[rows] = data.labels[records]
            self.table[rows, : len(rows)] = data.gram_matrix[records].index_select(1, records)
            self.table[rows, self.size :] = data.start_logits[records]
        coefficients = torch.zeros(count, classes, self.size + classes)
        coefficients[:, :, self.size :] = torch.eye(classes)
        self.state = (coefficients, torch.zeros_like(coefficients))

    def heads(self) -> Heads:
        """Return the heads in their current state."""
        coefficients = self.state[0][:, :, : self.size]
        sums = [
            head[:, : len(records)] @ self.data.features[records]
            for head, records in zip(coefficients, self.records, strict=True)
        ]
        start = self.data.start
        return Heads(torch.stack(sums) + start.weight, coefficients.sum(2) + start.bias)

    def update(
        self, state: State, rows: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
    ) -> None:
        """Update `state` in place by one step."""
        coefficients, momentum = state
        logits = torch.bmm(coefficients, self.gather(rows).transpose(1, 2))
        gradient = _logit_gradient(logits, self.labels[rows], weights)
        columns = (rows % self.size)[:, None].expand_as(gradient)
        momentum.mul_(self.training.momentum).scatter_add_(2, columns, gradient)
        coefficients.sub_(momentum, alpha=self.training.learning_rate)


def _logit_gradient(
    logits: Float[Tensor, "g y b"], labels: Int64[Tensor, "g b"], weights: Float[Tensor, "g b"]
) -> Float[Tensor, "g y b"]:
    """Return the gradient of the weighted cross-entropy by the logits."""
    gradient = logits.softmax(1)
    gradient.scatter_add_(1, labels[:, None], -torch.ones_like(gradient[:, :1]))
    return gradient.mul_(weights[:, None])
