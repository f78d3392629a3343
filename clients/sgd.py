"""Local stochastic gradient descent: the honest client."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.nn import functional

from clients._shared.optimizer import SgdOptimizer
from fl_sim.contracts import Client, Countermeasure, Pipeline, SgdConfig, Shard
from fl_sim.core import serialization
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.perturbation import as_floats
from fl_sim.models.batches import min_batch_size, split_batches

Penalty = Callable[[], Tensor]
Batches = Iterator[tuple[Float[Tensor, "n ..."], Int64[Tensor, " n"]]]


@final
@dataclass(frozen=True)
class SgdClient(Client):
    """A few epochs of stochastic gradient descent on the client's own shard.

    Source: ClientUpdate of McMahan et al. (2017), algorithm 1, https://arxiv.org/abs/1602.05629;
    label smoothing, positive or negative, after Struppek et al. (2024), equation 2,
    https://arxiv.org/abs/2310.06549.

    Attributes:
        learning_rate: Learning rate of the head, and of all layers if none is pretrained.
        learning_rate_decay: Factor of the learning rate per round; 1 keeps it constant.
        momentum, weight_decay: Settings of the optimiser, which restarts each round.
        batch_size: Number of images per step.
        local_epochs: Number of passes over the shard per round.
        label_smoothing: Share of the uniform distribution in the targets; negative values push the
            network away from it.
        countermeasures: Transformations of the images that counter their protection; see `fl-sim
            list countermeasures`.
        local_steps: Number of steps per round, in place of `local_epochs`; None uses whole epochs.
            The shard is shuffled in each round, and again whenever its batches run out: one step
            draws one random batch.
    """

    learning_rate: float = 0.05
    learning_rate_decay: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 32
    local_epochs: int = 1
    label_smoothing: float = 0.0
    countermeasures: tuple[Countermeasure, ...] = ()
    local_steps: int | None = serialization.omit_if_default(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "learning_rate")
        decay = self.learning_rate_decay
        require(0 < decay <= 1, "learning_rate_decay", "in (0, 1]", decay)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require_at_least(self, 0, "weight_decay")
        require_at_least(self, 1, "batch_size", "local_epochs")
        smoothing = self.label_smoothing
        require(-1 < smoothing < 1, "label_smoothing", "between -1 and 1", smoothing)
        steps = self.local_steps
        require_at_least(self, 1, "local_steps", or_none=True)
        by_steps = steps is not None
        allowed = "1 where local_steps says how long a round is"
        require(not by_steps or self.local_epochs == 1, "local_epochs", allowed, self.local_epochs)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; return the mean loss and accuracy over the last epoch.

        With `local_steps` they are means over all steps of the round.
        """
        return descend(self, model, shard, rng, make_proximal_penalty(model, shard.proximal_mu))

    def sgd_config(self, round_num: int) -> SgdConfig | None:
        """Return the configuration of the training; None if it also changes the images."""
        if self.countermeasures:
            return None
        return SgdConfig(
            learning_rate=self.learning_rate * self.learning_rate_decay ** (round_num - 1),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            local_epochs=self.local_epochs,
            label_smoothing=self.label_smoothing,
            local_steps=self.local_steps,
        )

    def images_per_step(self) -> int:
        """Return the batch size."""
        return self.batch_size

    def applied_countermeasures(self) -> tuple[Countermeasure, ...]:
        """Return the countermeasures, in the order of the field."""
        return self.countermeasures

    def num_steps(self, num_examples: int) -> int:
        """Return the number of local steps, or of the batches of all local epochs."""
        if self.local_steps is not None:
            return self.local_steps
        return self.local_epochs * math.ceil(num_examples / self.batch_size)


def descend(
    settings: SgdClient,
    model: nn.Module,
    shard: Shard,
    rng: torch.Generator,
    penalty: Penalty | None = None,
) -> dict[str, float]:
    """Run the local epochs or steps of `settings`, adding `penalty` to the loss of each batch.

    Returns:
        `train_loss` and `train_accuracy`, means over the last epoch or over all local steps,
            without the penalty.
    """
    rate = settings.learning_rate * settings.learning_rate_decay ** (shard.round - 1)
    optimizer = SgdOptimizer(model, rate, settings.momentum, settings.weight_decay)
    pipeline = Pipeline.of(settings.countermeasures)
    shard = pipeline.filter(shard, rng)
    least = min_batch_size(model, shard.inputs)
    model.train()
    loss_sum, right, count = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
    for epoch in iterate_epochs(settings, shard, rng, least):
        loss_sum, right, count = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
        for inputs, labels in epoch:
            inputs, targets = pipeline.prepare(model, inputs, labels, shard.num_classes, rng)
            logits = model(inputs)
            loss = smoothed_cross_entropy(logits, targets, settings.label_smoothing)
            total = loss if penalty is None else loss + penalty()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(labels)
            right += (logits.detach().argmax(1) == labels).sum()
            count += len(labels)
    return {"train_loss": float(loss_sum) / count, "train_accuracy": int(right) / count}


def make_proximal_penalty(model: nn.Module, mu: float) -> Penalty | None:
    """Return the penalty mu / 2 |w - w_0|^2, with w_0 the current parameters; None if mu is 0."""
    if mu == 0:
        return None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.detach().clone() for parameter in trained]

    def penalty() -> Tensor:
        moves = (p - s for p, s in zip(trained, start, strict=True))
        return mu / 2 * torch.stack([move.square().sum() for move in moves]).sum()

    return penalty


def iterate_epochs(
    settings: SgdClient, shard: Shard, rng: torch.Generator, least: int = 1
) -> Iterator[Batches]:
    """Yield the batches of each local epoch; with local steps, all of them at once."""
    if settings.local_steps is None:
        for _ in range(settings.local_epochs):
            yield iterate_batches(shard, settings.batch_size, rng, least)
    else:
        size = settings.batch_size
        epochs = (iterate_batches(shard, size, rng, least) for _ in itertools.count())
        yield itertools.islice(itertools.chain.from_iterable(epochs), settings.local_steps)


def iterate_batches(shard: Shard, batch_size: int, rng: torch.Generator, least: int = 1) -> Batches:
    """Yield shuffled batches of inputs and labels; images as floats in [0, 1].

    A remainder of fewer than `least` images joins the batch before it.
    """
    for rows in split_batches(torch.randperm(len(shard), generator=rng), batch_size, least):
        inputs = shard.inputs.index_select(0, rows)  # several times as fast as inputs[rows]
        yield as_floats(inputs), shard.labels[rows]


def smoothed_cross_entropy(
    logits: Float[Tensor, "n y"], targets: Shaped[Tensor, "n ..."], smoothing: float
) -> Float[Tensor, ""]:
    """Return (1 - a) NLL - a mean over classes of log p, for any a; torch only accepts a >= 0.

    Targets are labels, or a distribution over classes per image.
    """
    if smoothing == 0:
        return functional.cross_entropy(logits, targets)
    log_p = functional.log_softmax(logits, 1)
    mixed = targets.is_floating_point()
    nll = -(log_p * targets).sum(1).mean() if mixed else -log_p.gather(1, targets[:, None]).mean()
    return (1 - smoothing) * nll - smoothing * log_p.mean()
