"""DP-SGD: gradient clipping per image and Gaussian noise."""

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
from fl_sim.core.errors import RequestError, require, require_above, require_at_least
from fl_sim.core.perturbation import as_floats
from fl_sim.models.tuning import FrozenBatchNorm
from fl_sim.privacy.accounting import compute_epsilon

TAKEN = "dp_sgd.steps"  # name of the number of steps so far in a client's memory
PARTS = 10**9  # resolution of a probability, when planning
MAX_VALUES = 1 << 25  # per-image gradients held at once: 128 MiB


@final
@dataclass(frozen=True)
class DpSgdClient(Client):
    """SGD with gradients clipped per image and noise on their sum.

    Each image takes part in a step independently with probability L / n. The step is along (1 / L)
    (sum_i g_i min(1, C / |g_i|) + N(0, sigma^2 C^2)), also if fewer or more than L images were
    sampled. Each image is protected from all who receive the client's updates, including the
    server; a client with few images needs more noise for the same epsilon. Rows `epsilon` of group
    `images` hold the privacy spent by each client, by `fl_sim.privacy.accounting`.

    The guarantee covers the updates. A client that also reports the exact loss and accuracy of its
    training, as is the default, reveals more than epsilon states, and `fl_sim.metrics.detection`
    uses it; `reports="withheld"` keeps both back.

    Source: Abadi et al. (2016), algorithm 1, https://arxiv.org/abs/1607.00133. The noise comes from
    the run's seed and can be removed by those who know it: a simulation of privacy, not privacy.

    Attributes:
        clipping_norm: Largest L2 norm of an image's gradient; C in the paper.
        noise_multiplier: Standard deviation of the noise on the sum, as a multiple of
            `clipping_norm`; sigma in the paper.
        learning_rate: Learning rate of the noisy mean.
        batch_size: Expected number of images per step; L in the paper.
        local_epochs: Number of epochs per round, of n / `batch_size` steps each.
        delta: Probability with which the epsilon guarantee may fail.
        reports: Training metrics that the client reports: `exact` loss and accuracy, or NaN in
            their place (`withheld`).
    """

    clipping_norm: float = 1.0
    noise_multiplier: float = 1.0
    learning_rate: float = 0.1
    batch_size: int = 32
    local_epochs: int = 1
    delta: float = 1e-5
    reports: Literal["exact", "withheld"] = serialization.omit_if_default("exact")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "clipping_norm", "learning_rate")
        require_at_least(self, 0, "noise_multiplier")
        require_at_least(self, 1, "batch_size", "local_epochs")
        require(0 < self.delta < 1, "delta", "between 0 and 1", self.delta)

    def images_per_step(self) -> int:
        """Return the expected batch size."""
        return self.batch_size

    def num_steps(self, num_examples: int) -> int:
        """Return the number of steps of all local epochs."""
        return self.local_epochs * math.ceil(num_examples / self.batch_size)

    def cannot_train(self, model: nn.Module) -> str:
        """Return a reason against BatchNorm, through which images affect others' gradients."""
        mixing = [
            type(module).__name__
            for module in model.modules()
            if isinstance(module, _BatchNorm) and not isinstance(module, FrozenBatchNorm)
        ]
        return f"it mixes the images of a batch ({mixing[0]})" if mixing else ""

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; return loss and accuracy over the round, and count its steps."""
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
        return {"train_loss": losses / max(1, count), "train_accuracy": right / max(1, count)}

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Return the noisy sums of the steps so far, each of a Poisson sample of the images."""
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
        """Store the noisy mean in the gradients; return the summed loss and number correct."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        sums = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
        losses, right = 0.0, 0
        num_parameters = sum(parameter.numel() for parameter in trained.values())
        for part, part_labels in _split_batch(images, labels, num_parameters):
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
    """Return the gradient of each image's loss for each parameter, with the losses and logits."""
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
    """Return the factor per image that clips its gradient to a norm of `longest`."""
    squares = [per_image.flatten(1).square().sum(1) for per_image in gradients.values()]
    return (longest / torch.stack(squares).sum(0).sqrt()).clamp(max=1.0)


def _split_batch(
    images: Float[Tensor, "n ..."], labels: Int64[Tensor, " n"], num_parameters: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of a batch whose per-image gradients fit into memory."""
    if len(images) == 0:
        return
    size = max(1, MAX_VALUES // num_parameters)
    yield from zip(images.split(size), labels.split(size), strict=True)


def estimate_epsilon(noise_multiplier: float, rate: float, num_steps: int, delta: float) -> float:
    """Return the epsilon of `num_steps` steps, by Rényi accounting; NaN without dp-accounting.

    For planning, and for adding or removing an image that takes part in a step with probability
    `rate`.
    """
    draw = Draw(PARTS, round(rate * PARTS), "poisson")
    try:
        return compute_epsilon(
            Releases((Release(noise_multiplier, draw, num_steps),), delta, "images")
        ).rdp
    except RequestError:
        return math.nan
