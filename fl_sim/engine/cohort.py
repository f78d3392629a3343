"""Many small models trained at once, as one batch of matrix products.

Where a model is a row of linear layers, a step of one client costs less than the calls that
make it up. Here the clients' weights are stacked, and a step of all of them takes as many calls
as a step of one. Every client's matrices have the same sizes whatever the company, its batches
filled up with rows of weight zero: so a cohort of one gives the bits of a cohort of many.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
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
        real: which of them count.
        sizes: how many of them do.
        active: number of clients that are still training in each step.
    """

    rows: Int64[Tensor, "t k b"]
    real: Bool[Tensor, "t k b"]
    sizes: Int64[Tensor, "t k"]
    active: list[int]


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
        rows, real = plan.rows[t, :active], plan.real[t, :active]
        batch = inputs[rows.reshape(-1)]
        batch = front(as_pixels(batch)) if batch.dtype == torch.uint8 else front(batch)
        labels = workshop.labels[rows]
        seen = batch.reshape(active, rows.shape[1], -1)
        scores = step(layers, seen, labels, real, plan.sizes[t, :active], settings)
        losses, hits = scores
        loss_sums[t, :active], right[t, :active] = losses, hits
    return _in_order(order, plan, layers, settings, loss_sums, right)


def planned(workshop: "Workshop", settings: Descent, number: int, clients: list[int]) -> Plan:
    """Return the batches of clients, which are given in falling order of size."""
    width, all_rows, seed = settings.batch_size, [], workshop.seed
    for client in clients:
        own, rng = workshop.owners[client], generator(seed, "round", number, "client", client)
        epochs = [
            _padded(own[torch.randperm(len(own), generator=rng)], width)
            for _ in range(settings.local_epochs)
        ]
        all_rows.append(torch.cat(epochs))
    num_steps = [len(rows) for rows in all_rows]
    rows = torch.full((num_steps[0], len(clients), width), -1)
    for k, own in enumerate(all_rows):
        rows[: len(own), k] = own
    real = rows >= 0
    active = [sum(steps > t for steps in num_steps) for t in range(num_steps[0])]
    return Plan(rows.clamp(min=0), real, real.sum(2), active)


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
    labels: Int64[Tensor, "k b"],
    real: Bool[Tensor, "k b"],
    sizes: Int64[Tensor, " k"],
    settings: Descent,
) -> tuple[Float[Tensor, " k"], Int64[Tensor, " k"]]:
    """Take one step of the first k clients; return the sum of losses, and the hits, of each."""
    count, inputs = len(seen), [seen]
    for layer in layers:
        out = torch.baddbmm(
            layer.bias[:count, None], inputs[-1], layer.weight[:count].transpose(1, 2)
        )
        inputs.append(out.relu_() if layer.rectified else out)
    log_p = inputs.pop().log_softmax(2)
    own = log_p.gather(2, labels[:, :, None]).squeeze(2)
    hits = ((log_p.argmax(2) == labels) & real).sum(1)
    smoothing, num_classes = settings.label_smoothing, log_p.shape[2]
    losses = -(1 - smoothing) * own - smoothing * log_p.mean(2)
    slope = log_p.exp_()
    slope -= smoothing / num_classes
    slope.scatter_add_(2, labels[:, :, None], torch.full_like(own, smoothing - 1)[:, :, None])
    slope *= (real / sizes[:, None])[:, :, None]
    for depth in reversed(range(len(layers))):
        layer, received = layers[depth], inputs[depth]
        by_weight, by_bias = torch.bmm(slope.transpose(1, 2), received), slope.sum(1)
        if depth > 0:
            slope = torch.bmm(slope, layer.weight[:count])
            if layers[depth - 1].rectified:
                slope *= received > 0
        move(layer, by_weight, by_bias, settings)
    return (losses * real).sum(1), hits


def move(layer: Layer, by_weight: Tensor, by_bias: Tensor, settings: Descent) -> None:
    """Move the weights of the first clients along their gradients."""
    pairs = ((layer.weight, by_weight, layer.start[0]), (layer.bias, by_bias, layer.start[1]))
    for index, (values, slope, start) in enumerate(pairs):
        now = values[: len(slope)]
        if settings.weight_decay:
            slope = slope.add_(now, alpha=settings.weight_decay)
        if settings.mu:
            slope = slope.add_(now - start, alpha=settings.mu)
        if layer.velocity is not None:
            slope = layer.velocity[index][: len(slope)].mul_(settings.momentum).add_(slope)
        now.add_(slope, alpha=-settings.learning_rate * layer.rate)


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
        size = int(plan.sizes[last, k].sum())
        losses[place] = float(loss_sums[last, k].sum()) / size
        accuracies[place] = int(right[last, k].sum()) / size
    back = torch.tensor(order).argsort()
    return Trained(flat[back], losses, accuracies)
