"""Training of many clients at once: the steps of all of them are taken together.

Each client has the batches that it would have alone, whose records are given by a `BatchPlan`. The
models of all clients are `StackedModels`, of which there are two kinds: batched matrix products for
linear layers, and any other network vectorised over its parameters. Incomplete batches are padded
with records of weight zero, so that all batches have one size.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from fl_sim.contracts import SgdConfig
from fl_sim.core.seeding import generator
from fl_sim.federation.shards import ClientShards
from fl_sim.training.batched_layers import is_stack_of_layers, stack_layers
from fl_sim.training.batched_networks import explain_unbatchable, stack_network
from fl_sim.training.stacked_models import StackedModels, Targets


def can_batch(model: nn.Sequential, inputs: Shaped[Tensor, "n ..."]) -> bool:
    """Return whether many clients can train a network as one batch on inputs like these."""
    return is_stack_of_layers(model) or not explain_unbatchable(model, inputs)


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
    order = sorted(range(len(clients)), key=lambda i: -len(shards.owners[clients[i]]))
    largest = len(shards.owners[clients[order[0]]])
    all_models: StackedModels
    if is_stack_of_layers(model):
        # The same width for all batches of clients: their bits depend on it.
        width, all_models = sgd.batch_size, stack_layers(model, start, sgd, len(clients))
    else:
        width = min(sgd.batch_size, largest)
        all_models = stack_network(model, start, sgd, len(clients))
    plan = plan_batches(shards, sgd, width, round_num, [clients[i] for i in order])
    inputs = shards.round_inputs(round_num)
    log_likelihoods, predictions = torch.empty_like(plan.weights), torch.empty_like(plan.labels)
    models, counts, num_active = all_models, plan.active.sum(1).tolist(), len(clients)
    per_batch = (plan.rows, plan.labels, plan.weights, log_likelihoods, predictions)
    for active, rows, *targets in zip(counts, *(t.split(counts) for t in per_batch), strict=True):
        if active < num_active:
            # Clients that have finished are the last ones: a view of the others leaves them as is.
            models, num_active = all_models.narrow(active), active
        models.take_step(buffer.fetch(inputs, rows.flatten()), Targets(*targets), sgd)
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
    pieces = [stack.values.flatten(1) for stack in all_models.stacks]
    return TrainedBatch(torch.cat(pieces, 1)[inverse], *means)


def plan_batches(
    shards: ClientShards, sgd: SgdConfig, width: int, round_num: int, clients: list[int]
) -> BatchPlan:
    """Return the batches of clients, which are given in descending order of size.

    Args:
        shards: The records of all clients.
        sgd: The settings of training.
        width: Number of places in a batch, at least that of the records of any of its clients.
        round_num: Number of the round.
        clients: Numbers of the clients.
    """
    rows_of_clients = []
    for client in clients:
        # The labels of a client that is trained alone: the same shuffles, hence the same bits.
        rng = generator(shards.seed, "round", round_num, "client", client)
        rows_of_clients.append(_draw_batches(shards.owners[client], sgd, width, rng))
    steps = torch.arange(len(rows_of_clients[0]))
    active = steps[:, None] < torch.tensor([len(rows) for rows in rows_of_clients])
    rows = pad_sequence(rows_of_clients)[active]
    mask = rows[:, None] >= 0
    rows.clamp_(min=0)
    weights = mask / mask.sum(2, keepdim=True)
    return BatchPlan(active, rows, shards.labels[rows][:, None], mask, weights)


def _draw_batches(
    rows: Int64[Tensor, " n"], sgd: SgdConfig, width: int, rng: torch.Generator
) -> Int64[Tensor, "t b"]:
    """Return the rows of each step of a round, padded with -1 to the width."""
    num_steps = sgd.num_steps(len(rows))
    num_epochs = -(-num_steps // -(-len(rows) // width))
    epochs = [_pad(_shuffle(rows, width, rng), width) for _ in range(num_epochs)]
    return torch.cat(epochs)[:num_steps]


def _shuffle(rows: Int64[Tensor, " n"], width: int, rng: torch.Generator) -> Int64[Tensor, " n"]:
    """Return the rows in random order; unchanged if one batch takes all of them."""
    return rows if len(rows) <= width else rows[torch.randperm(len(rows), generator=rng)]


def _pad(rows: Int64[Tensor, " n"], width: int) -> Int64[Tensor, "t b"]:
    return functional.pad(rows, (0, -len(rows) % width), value=-1).view(-1, width)


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
