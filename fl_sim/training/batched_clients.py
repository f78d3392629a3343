"""Training of many small models at once, as batched matrix products.

For a stack of linear layers, one client's SGD step costs less than the calls that make it up. Here
the weights of all clients are stacked, so that a step of all clients takes as many calls as a step
of one. Incomplete batches are padded with records of weight zero: each client's matrices then have
the same sizes however many clients there are, and one client alone gets the same bits as among
many. Activations are stored as columns, one per record, since products with few classes are
fastest in this layout.
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
    """The records of each client in each step.

    A round has `t` steps. The `m` batches of single clients are listed step by step: first those
    of the first step, then those of the second, and so on. Clients are sorted by their number of
    steps, in descending order, so that the active clients of a step are always the first ones.

    Attributes:
        active: Whether each client still trains in each step.
        rows: Row numbers of the records; padding has row 0.
        labels: Labels of the records.
        mask: Whether a record is real; False for padding.
        weights: Weight of each record in the mean over its batch; 0 for padding.
    """

    active: Bool[Tensor, "t k"]
    rows: Int64[Tensor, "m b"]
    labels: Int64[Tensor, "m 1 b"]
    mask: Bool[Tensor, "m 1 b"]
    weights: Float[Tensor, "m 1 b"]


class Targets(NamedTuple):
    """Labels and weights of one step's records, and the tensors that receive the model's outputs.

    Attributes:
        labels: Labels of the records.
        weights: Weight of each record in the mean over its batch.
        log_likelihoods: Output: log-likelihood of each label.
        predictions: Output: predicted class of each record.
    """

    labels: Int64[Tensor, "k 1 b"]
    weights: Float[Tensor, "k 1 b"]
    log_likelihoods: Float[Tensor, "k 1 b"]
    predictions: Int64[Tensor, "k 1 b"]


@dataclass(eq=False)
class BatchBuffer:
    """Reusable memory for the records of one batch.

    Full-batch training uses the same batch in every round, which is then gathered only once.
    """

    _source: Shaped[Tensor, "n ..."] = field(default_factory=lambda: torch.empty(0))
    _rows: Int64[Tensor, " m"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    _stored: Shaped[Tensor, "m ..."] = field(default_factory=lambda: torch.empty(0))
    _floats: Float[Tensor, "m ..."] = field(default_factory=lambda: torch.empty(0))

    def fetch(
        self, source: Shaped[Tensor, "n ..."], rows: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m ..."]:
        """Return the given rows of `source` as floats; valid until the next call."""
        count = len(rows)
        if self._source is source and torch.equal(self._rows, rows):
            return self._floats[:count]
        if self._source is not source or len(self._stored) < count:
            self._stored = source.new_empty(count, *source.shape[1:])
            self._floats = self._stored.float()  # the same tensor if `source` is float already
        self._source, self._rows = source, rows
        stored = torch.index_select(source, 0, rows, out=self._stored[:count])
        floats = self._floats[:count]
        if floats.dtype != stored.dtype:
            floats.copy_(stored)
        return floats.div_(255) if stored.dtype == torch.uint8 else floats


@dataclass(frozen=True, eq=False)
class TrainedBatch:
    """The trained models of a batch of clients, in the order in which the clients were given.

    Attributes:
        parameters: Flat parameters of each client's model, as in `parameters.flat`.
        losses: Mean training loss of each client, over the last epoch or over all local steps.
        accuracies: Mean training accuracy of each client, over the same records.
    """

    parameters: Float[Tensor, "k p"]
    losses: list[float]
    accuracies: list[float]


def train_batched(
    model: nn.Sequential,
    shards: ClientShards,
    buffer: BatchBuffer,
    start: Float[Tensor, " p"],
    sgd: SgdConfig,
    round_num: int,
    clients: list[int],
) -> TrainedBatch:
    """Train clients side by side from `start`, each with the batches that it would use alone."""
    order = sorted(range(len(clients)), key=lambda i: -shards.sizes[clients[i]])
    plan = plan_batches(shards, sgd, round_num, [clients[i] for i in order])
    layers = all_layers = stack_layers(model, start, sgd, len(clients))
    normalisers = [module for module in model if isinstance(module, Normalise)]
    inputs = shards.round_inputs(round_num)
    log_likelihoods, predictions = torch.empty_like(plan.weights), torch.empty_like(plan.labels)
    counts, num_active = plan.active.sum(1).tolist(), len(clients)
    per_batch = (plan.rows, plan.labels, plan.weights, log_likelihoods, predictions)
    for active, rows, *targets in zip(counts, *(t.split(counts) for t in per_batch), strict=True):
        if active < num_active:
            # Clients that have finished are the last ones: a view of the others leaves them as is.
            layers, num_active = [layer.narrow(active) for layer in all_layers], active
        records = buffer.fetch(inputs, rows.flatten())
        for normalise in normalisers:
            records = normalise(records)
        train_step(layers, records.reshape(active, sgd.batch_size, -1), Targets(*targets), sgd)
    # The outputs of all steps were written into `log_likelihoods` and `predictions`, so that the
    # metrics of all clients are computed once instead of in every step.
    correct = (predictions == plan.labels) & plan.mask
    losses = -log_likelihoods.masked_fill_(~plan.mask, 0).sum((1, 2))
    num_epochs = sgd.local_epochs if sgd.local_steps is None else 1
    num_records = _sum_last_epochs(plan, plan.mask.sum((1, 2)).double(), num_epochs)
    inverse = torch.tensor(order).argsort()
    means = [
        (_sum_last_epochs(plan, values.double(), num_epochs) / num_records)[inverse].tolist()
        for values in (losses, correct.sum((1, 2)))
    ]
    pieces = [stack.values.flatten(1) for layer in all_layers for stack in layer.stacks]
    return TrainedBatch(torch.cat(pieces, 1)[inverse], *means)


def plan_batches(
    shards: ClientShards, sgd: SgdConfig, round_num: int, clients: list[int]
) -> BatchPlan:
    """Return the batches of clients, which are given in descending order of size."""
    rows_of_clients = []
    for client in clients:
        # The labels of a client that is trained alone: the same shuffles, hence the same bits.
        rng = generator(shards.seed, "round", round_num, "client", client)
        rows_of_clients.append(_draw_batches(shards.owners[client], sgd, rng))
    steps = torch.arange(len(rows_of_clients[0]))
    active = steps[:, None] < torch.tensor([len(rows) for rows in rows_of_clients])
    rows = pad_sequence(rows_of_clients)[active]
    mask = rows[:, None] >= 0
    rows.clamp_(min=0)
    weights = mask / mask.sum(2, keepdim=True)
    return BatchPlan(active, rows, shards.labels[rows][:, None], mask, weights)


def _draw_batches(
    rows: Int64[Tensor, " n"], sgd: SgdConfig, rng: torch.Generator
) -> Int64[Tensor, "t b"]:
    """Return the rows of each step of a round, padded with -1."""
    width, num_steps = sgd.batch_size, sgd.num_steps(len(rows))
    num_epochs = -(-num_steps // -(-len(rows) // width))
    epochs = [_pad(_shuffle(rows, width, rng), width) for _ in range(num_epochs)]
    return torch.cat(epochs)[:num_steps]


def _shuffle(rows: Int64[Tensor, " n"], width: int, rng: torch.Generator) -> Int64[Tensor, " n"]:
    """Return the rows in random order; unchanged if one batch takes all of them."""
    return rows if len(rows) <= width else rows[torch.randperm(len(rows), generator=rng)]


def _pad(rows: Int64[Tensor, " n"], width: int) -> Int64[Tensor, "t b"]:
    return functional.pad(rows, (0, -len(rows) % width), value=-1).view(-1, width)


def train_step(
    layers: list[Layer], records: Float[Tensor, "k b d"], targets: Targets, sgd: SgdConfig
) -> None:
    """Take one SGD step per client, and write the outputs of the models before it to `targets`."""
    inputs = [records.mT]
    for layer in layers:
        output = layer.forward(inputs[-1])
        inputs.append(output.relu_() if layer.has_relu else output)
    gradient = compute_loss_gradient(inputs.pop().log_softmax(1), targets, sgd.label_smoothing)
    for depth in reversed(range(len(layers))):
        layer, layer_inputs = layers[depth], inputs[depth]
        # Before the layer's step, which changes the weights that the gradient goes back through.
        gradient_below = layer.backward(gradient) if depth > 0 else gradient
        layer.sgd_step(gradient, layer_inputs, sgd)
        gradient = gradient_below
        if depth > 0 and layers[depth - 1].has_relu:
            gradient *= layer_inputs > 0


def compute_loss_gradient(
    log_p: Float[Tensor, "k c b"], targets: Targets, smoothing: float
) -> Float[Tensor, "k c b"]:
    """Return the gradient of the mean cross-entropy by the logits, in the memory of `log_p`.

    Args:
        log_p: Log-probability of each class; overwritten.
        targets: Labels and weights; receives log-likelihoods and predictions.
        smoothing: Share of label smoothing, in [0, 1).
    """
    labels, weights, log_likelihoods, predictions = targets
    torch.gather(log_p, 1, labels, out=log_likelihoods)
    torch.argmax(log_p, 1, keepdim=True, out=predictions)
    if smoothing:
        log_likelihoods.mul_(1 - smoothing).add_(log_p.mean(1, keepdim=True), alpha=smoothing)
    # softmax(logits) - target, where the target of class j is (1 - s) [j = label] + s / c.
    gradient = log_p.exp_()
    if smoothing:
        gradient -= smoothing / log_p.shape[1]
    return gradient.scatter_(1, labels, smoothing - 1, reduce="add").mul_(weights)


def _sum_last_epochs(
    plan: BatchPlan, values: Float64[Tensor, " m"], num_epochs: int
) -> Float64[Tensor, " k"]:
    """Return the sum of each client's values over its last epoch, added step by step.

    Args:
        plan: The batches of all clients.
        values: One value per batch, in the plan's order.
        num_epochs: Number of epochs of each client.
    """
    num_steps, num_clients = plan.active.shape
    table = values.new_zeros(num_steps + 1, num_clients)
    table[1:].masked_scatter_(plan.active, values)
    # Differences of running sums: a client's sum does not depend on the steps of the others.
    totals, ends, clients = table.cumsum(0), plan.active.sum(0), torch.arange(num_clients)
    return totals[ends, clients] - totals[ends - ends // num_epochs, clients]
