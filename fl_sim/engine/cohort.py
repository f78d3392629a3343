"""Many small models trained at once, as one batch of matrix products.

Where a model is a row of linear layers, a step of one client costs less than the calls that
make it up. Here the clients' weights are stacked, and a step of all of them takes as many calls
as a step of one. Every client's matrices have the same sizes whatever the company, its batches
filled up with rows of weight zero: so a cohort of one gives the bits of a cohort of many.
Activations are kept as columns, one a sample, since a product with few classes is fastest that
way round.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor, nn

from fl_sim.contracts import Descent
from fl_sim.models.architectures import Normalise
from fl_sim.models.tuning import rate_of
from fl_sim.perturbation import as_pixels
from fl_sim.seeding import generator

if TYPE_CHECKING:
    from fl_sim.engine.workshop import Workshop

PLAIN = (nn.Linear, nn.ReLU, nn.Flatten, nn.Identity)


def is_row_of_layers(model: nn.Sequential) -> bool:
    """Return whether the model is linear layers and rectifiers, and all of it is trained."""
    layers = [stage for stage in model if isinstance(stage, nn.Linear)]
    kinds = [type(stage) for stage in model]
    return (
        bool(layers)
        and all(kind in (*PLAIN, Normalise) for kind in kinds)
        and nn.ReLU not in kinds[: kinds.index(nn.Linear)]
        and all(layer.bias is not None for layer in layers)
        and all(parameter.requires_grad for parameter in model.parameters())
    )


@dataclass(eq=False)
class Layer:
    """The stacked weights of one linear layer, with their velocities and their start."""

    weight: Float[Tensor, "k o i"]
    bias: Float[Tensor, "k o"]
    start: tuple[Float[Tensor, "o i"], Float[Tensor, " o"]]
    velocity: tuple[Float[Tensor, "k o i"], Float[Tensor, "k o"]] | None
    rectified: bool
    rate: float


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rows each client sees in each step: those with most steps come first.

    Attributes:
        rows: of the records, filled up with row 0.
        labels: theirs.
        real: which of them count.
        shares: of each in the mean of its batch.
        active: number of clients that are still training in each step.
    """

    rows: Int64[Tensor, "t k b"]
    labels: Int64[Tensor, "t k b"]
    real: Bool[Tensor, "t k b"]
    shares: Float[Tensor, "t k b"]
    active: list[int]


@dataclass(eq=False)
class Batch:
    """The records of one batch, in memory that is used again.

    A batch of all that its clients have is the same in every round, and is fetched once.
    """

    _held: tuple[Tensor, Tensor, Tensor] | None = None  # a source, rows of it, and these

    def of(self, source: Shaped[Tensor, "n ..."], rows: Int64[Tensor, " m"]) -> Tensor:
        """Return some rows of `source`, until the next call."""
        room = source[:0]
        if self._held is not None and self._held[0] is source:
            _, before, room = self._held
            if torch.equal(before, rows):
                return room[: len(rows)]
        if len(room) < len(rows):
            room = source.new_empty(len(rows), *source.shape[1:])
        self._held = source, rows, room
        return torch.index_select(source, 0, rows, out=room[: len(rows)])


@dataclass(frozen=True, eq=False)
class Trained:
    """What became of each client, in the order given.

    Attributes:
        parameters: flat, as of `parameters.flat`.
        losses, accuracies: means over the last epoch.
    """

    parameters: Float[Tensor, "k p"]
    losses: list[float]
    accuracies: list[float]


def train(
    workshop: "Workshop",
    start: Float[Tensor, " p"],
    settings: Descent,
    number: int,
    clients: list[int],
) -> Trained:
    """Train clients side by side from `start`, each with the batches it would see alone."""
    order = sorted(range(len(clients)), key=lambda i: -workshop.sizes[clients[i]])
    plan = planned(workshop, settings, number, [clients[i] for i in order])
    layers = stacked(workshop.model, start, settings, len(clients))
    front = nn.Sequential(*[s for s in workshop.model if isinstance(s, Normalise)])
    inputs = workshop.round_inputs(number)
    loss_sums = torch.zeros(len(plan.active), len(clients))
    right = torch.zeros(len(plan.active), len(clients), dtype=torch.int64)
    for t, active in enumerate(plan.active):
        batch = workshop.batch.of(inputs, plan.rows[t, :active].reshape(-1))
        batch = front(as_pixels(batch)) if batch.dtype == torch.uint8 else front(batch)
        seen = batch.reshape(active, settings.batch_size, -1)
        losses, hits = step(layers, seen, plan, t, settings)
        loss_sums[t, :active], right[t, :active] = losses, hits
    return _in_order(order, plan, layers, settings, loss_sums, right)


def planned(workshop: "Workshop", settings: Descent, number: int, clients: list[int]) -> Plan:
    """Return the batches of clients, which are given in falling order of size."""
    width, all_rows, seed = settings.batch_size, [], workshop.seed
    for client in clients:
        own, rng = workshop.owners[client], generator(seed, "round", number, "client", client)
        epochs = [_padded(_shuffled(own, width, rng), width) for _ in range(settings.local_epochs)]
        all_rows.append(torch.cat(epochs))
    num_steps = [len(rows) for rows in all_rows]
    rows = torch.full((num_steps[0], len(clients), width), -1)
    for k, own in enumerate(all_rows):
        rows[: len(own), k] = own
    real = rows >= 0
    active = [sum(steps > t for steps in num_steps) for t in range(num_steps[0])]
    rows.clamp_(min=0)
    shares = real / real.sum(2, keepdim=True).clamp_(min=1)
    return Plan(rows, workshop.labels[rows], real, shares, active)


def _shuffled(rows: Int64[Tensor, " n"], width: int, rng: torch.Generator) -> Int64[Tensor, " n"]:
    """Return the rows in random order; as they are where one batch takes all of them."""
    return rows if len(rows) <= width else rows[torch.randperm(len(rows), generator=rng)]


def _padded(rows: Int64[Tensor, " n"], width: int) -> Int64[Tensor, "t b"]:
    missing = -len(rows) % width
    return torch.cat([rows, torch.full((missing,), -1)]).view(-1, width)


def stacked(
    model: nn.Sequential, start: Float[Tensor, " p"], settings: Descent, count: int
) -> list[Layer]:
    """Return the linear layers of a model, once a client, as they stand at `start`."""
    layers: list[Layer] = []
    stages, position = list(model), 0
    for index, stage in enumerate(stages):
        if not isinstance(stage, nn.Linear):
            continue
        size = stage.weight.numel()
        weight = start[position : position + size].view_as(stage.weight)
        bias = start[position + size : position + size + len(stage.bias)]
        position += size + len(stage.bias)
        weights = weight.expand(count, -1, -1).clone()
        biases = bias.expand(count, -1).clone()
        moving = settings.momentum > 0
        velocity = (torch.zeros_like(weights), torch.zeros_like(biases)) if moving else None
        rectified = any(isinstance(s, nn.ReLU) for s in _until_next_linear(stages[index + 1 :]))
        layers.append(
            Layer(
                weights,
                biases,
                (weight, bias),
                velocity,
                rectified,
                rate_of(next(stage.parameters())),
            )
        )
    return layers


def _until_next_linear(stages: list[nn.Module]) -> list[nn.Module]:
    ends = [i for i, stage in enumerate(stages) if isinstance(stage, nn.Linear)]
    return stages[: ends[0]] if ends else stages


def step(
    layers: list[Layer],
    seen: Float[Tensor, "k b d"],
    plan: Plan,
    t: int,
    settings: Descent,
) -> tuple[Float[Tensor, " k"], Int64[Tensor, " k"]]:
    """Take step t of the first k clients; return the sum of losses, and the hits, of each."""
    count, inputs = len(seen), [seen.mT]
    for layer in layers:
        out = torch.baddbmm(layer.bias[:count, :, None], layer.weight[:count], inputs[-1])
        inputs.append(out.relu_() if layer.rectified else out)
    labels, real = plan.labels[t, :count], plan.real[t, :count]
    log_p, own = inputs.pop().log_softmax(1), labels[:, None]
    surprise = -log_p.gather(1, own).squeeze(1)
    hits = ((log_p.mT.contiguous().argmax(2) == labels) & real).sum(1)
    smoothing, num_classes = settings.label_smoothing, log_p.shape[1]
    losses = (1 - smoothing) * surprise
    if smoothing:
        losses -= smoothing * log_p.mean(1)
    slope = log_p.exp_()
    if smoothing:
        slope -= smoothing / num_classes
    slope.scatter_add_(1, own, slope.new_full(own.shape, smoothing - 1))
    slope *= plan.shares[t, :count, None]
    for depth in reversed(range(len(layers))):
        layer, received = layers[depth], inputs[depth]
        earlier = torch.bmm(layer.weight[:count].mT, slope) if depth > 0 else slope
        move(layer, slope, received, settings)
        slope = earlier
        if depth > 0 and layers[depth - 1].rectified:
            slope *= received > 0
    return (losses * real).sum(1), hits


def move(
    layer: Layer,
    slope: Float[Tensor, "k o b"],
    received: Float[Tensor, "k i b"],
    settings: Descent,
) -> None:
    """Move the weights of the first clients along their gradients.

    Args:
        layer: what is moved.
        slope: derivative of the loss by what the layer gave.
        received: what it was given.
        settings: of the descent.
    """
    count, rate = len(slope), settings.learning_rate * layer.rate
    by_bias = slope.sum(2)
    if not (settings.weight_decay or settings.mu or layer.velocity):
        layer.weight[:count].baddbmm_(slope, received.mT, alpha=-rate)
        layer.bias[:count].sub_(by_bias, alpha=rate)
        return
    by_weight = torch.bmm(slope, received.mT)
    pairs = ((layer.weight, by_weight, layer.start[0]), (layer.bias, by_bias, layer.start[1]))
    for index, (values, gradient, start) in enumerate(pairs):
        now = values[:count]
        if settings.weight_decay:
            gradient = gradient.add_(now, alpha=settings.weight_decay)
        if settings.mu:
            gradient = gradient.add_(now - start, alpha=settings.mu)
        if layer.velocity is not None:
            gradient = layer.velocity[index][:count].mul_(settings.momentum).add_(gradient)
        now.sub_(gradient, alpha=rate)


def _in_order(
    order: list[int],
    plan: Plan,
    layers: list[Layer],
    settings: Descent,
    loss_sums: Float[Tensor, "t k"],
    right: Int64[Tensor, "t k"],
) -> Trained:
    """Return the clients in the order in which they were given."""
    count = len(order)
    pieces = [part.reshape(count, -1) for own in layers for part in (own.weight, own.bias)]
    flat, losses, accuracies = torch.cat(pieces, 1), [0.0] * count, [0.0] * count
    for k, place in enumerate(order):
        steps = sum(active > k for active in plan.active)
        last = slice(steps - steps // settings.local_epochs, steps)
        size = int(plan.real[last, k].sum())
        losses[place] = float(loss_sums[last, k].sum()) / size
        accuracies[place] = int(right[last, k].sum()) / size
    back = torch.tensor(order).argsort()
    return Trained(flat[back], losses, accuracies)
