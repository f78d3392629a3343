"""DP-SGD: descent in which no single image counts for much."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from clients._shared.optimizer import SgdOptimizer
from fl_sim.contracts import Client, Draw, Release, Releases, Shard
from fl_sim.core import serialization
from fl_sim.core.errors import RequestError, require
from fl_sim.core.perturbation import as_floats
from fl_sim.models.tuning import FrozenBatchNorm
from fl_sim.privacy.accounting import compute_epsilon

TAKEN = "dp_sgd.steps"  # name of the number of steps so far in a client's memory
PARTS = 10**9  # to which a probability is rounded, when planning
MAX_VALUES = 1 << 25  # of the gradients of single images that are held at once: 128 MiB


@final
@dataclass(frozen=True)
class DpSgdClient(Client):
    """Descent with gradients that are shortened image by image, and noise on their sum.

    Each image takes part in a step with probability `batch_size` / n, by itself. The sum of the
    shortened gradients, with its noise, is divided by `batch_size`, also where fewer or more
    images came. Each image of a client is protected from whoever sees the client's updates, the
    server too; a client with few images needs more noise for the same epsilon. Rows `epsilon` of
    group `images` say what each client has spent so far, by `fl_sim.privacy.accounting`.

    That is about the updates. A client that also reports the exact loss and accuracy of its
    training, as is the default, tells the server more than epsilon says, and
    `fl_sim.metrics.detection` reads it; `reports="withheld"` keeps both back.

    Source: Abadi et al. (2016), algorithm 1, https://arxiv.org/abs/1607.00133. The noise comes
    from the run's seed, so whoever knows it can take the noise off again: a simulation of
    privacy, not privacy.

    Attributes:
        clipping_norm: longest gradient of an image that counts in full; C of the paper.
        noise_multiplier: standard deviation of the noise on the sum, as a multiple of
            `clipping_norm`; sigma of the paper.
        learning_rate: of the noisy mean.
        batch_size: images that a step is expected to take; L of the paper.
        local_epochs: of a round, of n / `batch_size` steps each.
        delta: probability with which epsilon may fail.
        reports: what the client tells of its training beside the update: `exact` loss and
            accuracy, or nothing, NaN in their place (`withheld`).
    """

    clipping_norm: float = 1.0
    noise_multiplier: float = 1.0
    learning_rate: float = 0.1
    batch_size: int = 32
    local_epochs: int = 1
    delta: float = 1e-5
    reports: Literal["exact", "withheld"] = serialization.omit_if_default("exact")

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.clipping_norm > 0, "clipping_norm", "above 0", self.clipping_norm)
        noise = self.noise_multiplier
        require(noise >= 0, "noise_multiplier", "at least 0", noise)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        require(self.local_epochs >= 1, "local_epochs", "at least 1", self.local_epochs)
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)

    def images_per_step(self) -> int:
        """Return the batch size that is expected."""
        return self.batch_size

    def num_steps(self, num_examples: int) -> int:
        """Return the number of steps of all local epochs."""
        return self.local_epochs * math.ceil(num_examples / self.batch_size)

    def cannot_train(self, model: nn.Module) -> str:
        """Refuse batch normalisation: with it, an image moves the gradients of others."""
        mixing = [
            type(module).__name__
            for module in model.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, FrozenBatchNorm)
        ]
        return f"it mixes the images of a batch ({mixing[0]})" if mixing else ""

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; report loss and accuracy over the round, and count its steps."""
        optimizer = SgdOptimizer(model, self.learning_rate, momentum=0.0, weight_decay=0.0)
        model.train()
        rate = min(1.0, self.batch_size / len(shard))
        losses, right, count = 0.0, 0, 0
        num_steps = self.num_steps(len(shard))
        for _ in range(num_steps):
            rows = (torch.rand(len(shard), generator=rng) < rate).nonzero().squeeze(1)
            images, labels = shard.inputs.index_select(0, rows), shard.labels[rows]
            images = as_floats(images)
            loss, correct = self._step(model, images, labels, rng)
            optimizer.step()
            losses, right, count = losses + loss, right + correct, count + len(rows)
        before = int(shard.memory.get(TAKEN, torch.zeros((), dtype=torch.int64)))
        shard.memory[TAKEN] = torch.tensor(before + num_steps)
        if self.reports == "withheld":
            return {"train_loss": math.nan, "train_accuracy": math.nan}
        return {
            "train_loss": losses / max(1, count),
            "train_accuracy": right / max(1, count),
        }

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Return the noisy sums of the steps so far, each of a Poisson draw of the images."""
        draw = Draw(num_examples, self.batch_size, "poisson")
        steps = Release(self.noise_multiplier, draw, int(memory.get(TAKEN, 0)))
        return Releases((steps,), self.delta, "images")

    def _step(
        self,
        model: nn.Module,
        images: Float[Tensor, "n ..."],
        labels: Int64[Tensor, " n"],
        rng: torch.Generator,
    ) -> tuple[float, int]:
        """Leave the noisy mean in the gradients; return the sum of losses, and the hits."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        sums = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
        losses, right = 0.0, 0
        for part, part_labels in _split_batch(
            images, labels, sum(p.numel() for p in trained.values())
        ):
            gradients, (loss, scores) = compute_per_image_gradients(model, part, part_labels)
            factors = compute_clipping_factors(gradients, self.clipping_norm)
            for name, per_image in gradients.items():
                sums[name] += torch.einsum("n,n...->...", factors, per_image)
            losses += float(loss.sum())
            right += int((scores.argmax(1) == part_labels).sum())
        deviation = self.noise_multiplier * self.clipping_norm
        for name, parameter in trained.items():
            noise = deviation * torch.randn(parameter.shape, generator=rng)
            parameter.grad = (sums[name] + noise) / self.batch_size
        return losses, right


def compute_per_image_gradients(
    model: nn.Module, images: Float[Tensor, "n ..."], labels: Int64[Tensor, " n"]
) -> tuple[dict[str, Float[Tensor, "n ..."]], tuple[Float[Tensor, " n"], Float[Tensor, "n y"]]]:
    """Return the gradient of each image's loss by each parameter; with the losses and scores."""
    every = dict(model.named_parameters())
    trained = {name: p.detach() for name, p in every.items() if p.requires_grad}
    fixed = {name: p.detach() for name, p in every.items() if not p.requires_grad}
    fixed |= dict(model.named_buffers())

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        scores = functional_call(model, (values, fixed), (image[None],))
        return functional.cross_entropy(scores, label[None]), scores[0]

    grad_of_one = grad_and_value(loss, has_aux=True)
    grad_of_all: Any = vmap(grad_of_one, in_dims=(None, 0, 0), randomness="different")
    gradients, (losses, scores) = grad_of_all(trained, images, labels)
    return gradients, (losses, scores)


def compute_clipping_factors(
    gradients: dict[str, Float[Tensor, "n ..."]], longest: float
) -> Float[Tensor, " n"]:
    """Return the factor of each image that makes its gradient at most so long."""
    squares = [per_image.flatten(1).square().sum(1) for per_image in gradients.values()]
    return (longest / torch.stack(squares).sum(0).sqrt()).clamp(max=1.0)


def _split_batch(
    images: Float[Tensor, "n ..."], labels: Int64[Tensor, " n"], num_parameters: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield as many images at once as have room for their gradients."""
    if len(images) == 0:
        return
    size = max(1, MAX_VALUES // num_parameters)
    yield from zip(images.split(size), labels.split(size), strict=True)


def estimate_epsilon(noise_multiplier: float, rate: float, num_steps: int, delta: float) -> float:
    """Return what so many steps would cost, by RDP; NaN without dp-accounting.

    A figure to plan by. It is that of adding or removing an image, each of which takes part in
    a step with probability `rate`.
    """
    draw = Draw(PARTS, round(rate * PARTS), "poisson")
    try:
        return compute_epsilon(
            Releases((Release(noise_multiplier, draw, num_steps),), delta, "images")
        ).rdp
    except RequestError:
        return math.nan
