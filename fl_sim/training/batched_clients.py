"""Many small models trained at once, as one batch of matrix products.

Where a model is a row of linear layers, a step of one client costs less than the calls that
make it up. Here the clients' weights are stacked, and a step of all of them takes as many calls
as a step of one. Every client's matrices have the same sizes whatever the company, its batches
filled up with rows of weight zero: so a cohort of one gives the bits of a cohort of many.
Activations are kept as columns, one a sample, since a product with few classes is fastest that
way round.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from fl_sim.contracts import SgdConfig
from fl_sim.core.seeding import generator
from fl_sim.federation.shards import ClientShards
from fl_sim.models.architectures import Normalise
from fl_sim.training.batched_layers import Layer, stack_layers


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """Which records each client sees in each step.

    There are m steps of single clients, one after another: the first step of all, the second of
    all who have one, and so on; those with most steps come first.

    Attributes:
        alive: which clients are still training in each step.
        rows: of the records, filled up with row 0.
        labels: theirs.
        real: which of them count.
        shares: of each in the mean of its batch.
    """

    active: Bool[Tensor, "t k"]
    rows: Int64[Tensor, "m b"]
    labels: Int64[Tensor, "m 1 b"]
    mask: Bool[Tensor, "m 1 b"]
    weights: Float[Tensor, "m 1 b"]


class Targets(NamedTuple):
    """What the records of a step say, and room for what the models say of them."""

    labels: Int64[Tensor, "k 1 b"]
    weights: Float[Tensor, "k 1 b"]
    log_likelihoods: Float[Tensor, "k 1 b"]
    predictions: Int64[Tensor, "k 1 b"]


@dataclass(eq=False)
class BatchBuffer:
    """The records of one batch, in memory that is used again.

    A batch of all that its clients have is the same in every round, and is fetched once.
    """

    _source: Shaped[Tensor, "n ..."] = field(default_factory=lambda: torch.empty(0))
    _rows: Int64[Tensor, " m"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    _stored: Shaped[Tensor, "m ..."] = field(default_factory=lambda: torch.empty(0))
    _floats: Float[Tensor, "m ..."] = field(default_factory=lambda: torch.empty(0))

    def fetch(
        self, source: Shaped[Tensor, "n ..."], rows: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m ..."]:
        """Return some rows of `source` as floats, until the next call."""
        count = len(rows)
        if self._source is source and torch.equal(self._rows, rows):
            return self._floats[:count]
        if self._source is not source or len(self._stored) < count:
            self._stored = source.new_empty(count, *source.shape[1:])
            self._floats = self._stored.float()  # itself, where it is that already
        self._source, self._rows = source, rows
        stored = torch.index_select(source, 0, rows, out=self._stored[:count])
        floats = self._floats[:count]
        if floats.dtype != stored.dtype:
            floats.copy_(stored)
        return floats.div_(255) if stored.dtype == torch.uint8 else floats


@dataclass(frozen=True, eq=False)
class TrainedBatch:
    """What became of each client, in the order given.

    Attributes:
        parameters: flat, as of `parameters.flat`.
        losses, accuracies: means over the last epoch, or over all local steps.
    """

    parameters: Float[Tensor, "k p"]
    losses: list[float]
    accuracies: list[float]


def train_batched(
    model: nn.Sequential,
    shards: ClientShards,
    batch: BatchBuffer,
    start: Float[Tensor, " p"],
    sgd: SgdConfig,
    round_num: int,
    clients: list[int],
) -> TrainedBatch:
    """Train clients side by side from `start`, each with the batches it would see alone."""
    order = sorted(range(len(clients)), key=lambda i: -shards.sizes[clients[i]])
    ordered = [clients[i] for i in order]
    plan = plan_batches(shards, sgd, round_num, ordered)
    layers = every = stack_layers(model, start, sgd, len(clients))
    front = [stage for stage in model if isinstance(stage, Normalise)]
    inputs = shards.round_inputs(round_num)
    likelihoods, guesses = torch.empty_like(plan.weights), torch.empty_like(plan.labels)
    counts, before = plan.active.sum(1).tolist(), len(clients)
    parts = (plan.rows, plan.labels, plan.weights, likelihoods, guesses)
    for active, rows, *own in zip(counts, *(each.split(counts) for each in parts), strict=True):
        if active < before:
            layers, before = [layer.narrow(active) for layer in every], active
        records = batch.fetch(inputs, rows.flatten())
        for stage in front:
            records = stage(records)
        train_step(layers, records.reshape(active, sgd.batch_size, -1), Targets(*own), sgd)
    right = (guesses == plan.labels) & plan.mask
    losses = -likelihoods.masked_fill_(~plan.mask, 0).sum((1, 2))
    seen = plan.mask.sum((1, 2)).double()
    num_epochs = sgd.local_epochs if sgd.local_steps is None else 1
    counts_seen = _sum_last_epochs(plan, seen, num_epochs)
    back = torch.tensor(order).argsort()
    told = [
        (_sum_last_epochs(plan, values.double(), num_epochs) / counts_seen)[back].tolist()
        for values in (losses, right.sum((1, 2)))
    ]
    pieces = [stack.values.flatten(1) for layer in every for stack in layer.stacks]
    return TrainedBatch(torch.cat(pieces, 1)[back], *told)


def plan_batches(
    shards: ClientShards, sgd: SgdConfig, round_num: int, clients: list[int]
) -> BatchPlan:
    """Return the batches of clients, which are given in falling order of size."""
    all_rows, seed = [], shards.seed
    for client in clients:
        own, rng = shards.owners[client], generator(seed, "round", round_num, "client", client)
        all_rows.append(_draw_batches(own, sgd, rng))
    steps = torch.arange(len(all_rows[0]))
    alive = steps[:, None] < torch.tensor([len(rows) for rows in all_rows])
    rows = pad_sequence(all_rows)[alive]
    real = rows[:, None] >= 0
    rows.clamp_(min=0)
    shares = real / real.sum(2, keepdim=True)
    return BatchPlan(alive, rows, shards.labels[rows][:, None], real, shares)


def _draw_batches(
    own: Int64[Tensor, " n"], sgd: SgdConfig, rng: torch.Generator
) -> Int64[Tensor, "t b"]:
    """Return the rows of each step of a round, filled up with -1."""
    width, wanted = sgd.batch_size, sgd.num_steps(len(own))
    num_epochs = -(-wanted // -(-len(own) // width))
    epochs = [_pad(_shuffle(own, width, rng), width) for _ in range(num_epochs)]
    return torch.cat(epochs)[:wanted]


def _shuffle(rows: Int64[Tensor, " n"], width: int, rng: torch.Generator) -> Int64[Tensor, " n"]:
    """Return the rows in random order; as they are where one batch takes all of them."""
    return rows if len(rows) <= width else rows[torch.randperm(len(rows), generator=rng)]


def _pad(rows: Int64[Tensor, " n"], width: int) -> Int64[Tensor, "t b"]:
    return functional.pad(rows, (0, -len(rows) % width), value=-1).view(-1, width)


def train_step(
    layers: list[Layer], seen: Float[Tensor, "k b d"], answers: Targets, sgd: SgdConfig
) -> None:
    """Take a step of each client, and write down what its model said before."""
    inputs = [seen.mT]
    for layer in layers:
        out = layer.forward(inputs[-1])
        inputs.append(out.relu_() if layer.has_relu else out)
    slope = compute_loss_gradient(inputs.pop().log_softmax(1), answers, sgd.label_smoothing)
    for depth in reversed(range(len(layers))):
        layer, received = layers[depth], inputs[depth]
        earlier = layer.backward(slope) if depth > 0 else slope
        layer.sgd_step(slope, received, sgd)
        slope = earlier
        if depth > 0 and layers[depth - 1].has_relu:
            slope *= received > 0


def compute_loss_gradient(
    log_p: Float[Tensor, "k c b"], answers: Targets, smoothing: float
) -> Float[Tensor, "k c b"]:
    """Return the derivative of the mean loss by the scores; `log_p` is overwritten by it."""
    labels, shares, likelihoods, guesses = answers
    torch.gather(log_p, 1, labels, out=likelihoods)
    torch.argmax(log_p, 1, keepdim=True, out=guesses)
    if smoothing:
        likelihoods.mul_(1 - smoothing).add_(log_p.mean(1, keepdim=True), alpha=smoothing)
    slope = log_p.exp_()
    if smoothing:
        slope -= smoothing / log_p.shape[1]
    return slope.scatter_(1, labels, smoothing - 1, reduce="add").mul_(shares)


def _sum_last_epochs(
    plan: BatchPlan, values: Float64[Tensor, " m"], num_epochs: int
) -> Float64[Tensor, " k"]:
    """Return the sum of each client's values over its last epoch, one step after the other.

    Args:
        plan: of the steps.
        values: one for each step of a client, in the plan's order.
        num_epochs: of each client.
    """
    most, count = plan.active.shape
    table = values.new_zeros(most + 1, count)
    table[1:].masked_scatter_(plan.active, values)
    totals, ends, clients = table.cumsum(0), plan.active.sum(0), torch.arange(count)
    return totals[ends, clients] - totals[ends - ends // num_epochs, clients]
