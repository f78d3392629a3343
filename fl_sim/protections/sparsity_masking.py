"""Sparsity-aware local masking: noise on the pixels with the largest gradients."""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.perturbation import Loss, take_sign_steps
from fl_sim.core.seeding import generator
from fl_sim.model import Model
from fl_sim.models.surrogate import BatchCycle, Surrogate, count_cycled
from fl_sim.protections._shared.alternating_optimization import (
    AlternatingNoise,
    count_outputs,
    get_image_shape,
)


@final
@dataclass(frozen=True)
class SparsityMasking(Protection):
    """Error-minimising noise on the share of pixels with the largest gradients (SALM-style).

    The mask of an image is chosen anew in each pass. Medical images are sparse: a network learns
    nothing from most of their pixels, so noise on them is merely visible.

    Source: after the idea of Sun et al. (2024), Medical Unlearnable Examples,
    https://arxiv.org/abs/2403.10573, whose code is not public: the mask by gradient magnitude
    and the settings are this project's.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        share: Share of an image's pixels that may change.
        content_only: Whether to spare the background: pixels that are black in all channels, like
            all of their neighbours.
        surrogate: Network that is trained together with the noise.
        surrogate_steps: Number of steps of the surrogate between two passes over the noise.
        noise_steps: Number of sign steps per image and pass.
        step_size: Size of a sign step, in [0, 1]; None for a tenth of the radius.
        stop_error: Error of the surrogate on noisy images at which the passes end.
        max_passes: Largest number of passes, since the error does not fall monotonically.
        batch_size, learning_rate: Settings of its SGD (momentum 0.9, weight decay 5e-4).
    """

    radius: float = 8 / 255
    share: float = 0.25
    content_only: bool = False
    surrogate: Model = field(default_factory=Model)
    surrogate_steps: int = 10
    noise_steps: int = 20
    step_size: float | None = None
    stop_error: float = 0.01
    max_passes: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    short: ClassVar[str] = "salm-style"
    min_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.share <= 1, "share", "in (0, 1]", self.share)
        require_at_least(self, 1, "surrogate_steps", "noise_steps", "max_passes", "batch_size")
        require(0 <= self.stop_error < 1, "stop_error", "in [0, 1)", self.stop_error)
        require_above(self, 0, "learning_rate")
        require_above(self, 0, "step_size", or_none=True)

    def predict_passes(self, num_images: int, num_classes: int) -> int:
        """Return the number of passes if the noise never stops early."""
        steps = self.max_passes * self.surrogate_steps
        trained = count_cycled(num_images, self.batch_size, steps)
        return trained + self.max_passes * (1 + self.noise_steps) * num_images  # 1 for the mask

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return masked noise, optimised alternately with the surrogate."""
        shape, rate = get_image_shape(images), self.learning_rate
        surrogate = Surrogate(self.surrogate, shape, count_outputs(labels), seed, rate)
        rng = generator(seed, "sparsity_masking", "batches")
        batches = BatchCycle(len(images), self.batch_size, rng, surrogate.min_batch_size(images))
        return AlternatingNoise(
            surrogate,
            images,
            labels,
            self.batch_size,
            self.max_passes,
            rng,
            self._move,
            lambda error: error <= self.stop_error,
            batches,
            self.surrogate_steps,
        ).make_sample_wise()

    def _move(self, loss: Loss, images: Images, noise: Images) -> Images:
        mask = select_largest_gradients(loss, images + noise, self.share)
        if self.content_only:
            mask &= find_content(images)

        def masked_loss(moved: Tensor) -> Tensor:
            return loss(torch.where(mask, moved, images))

        step, steps = self.step_size or self.radius / 10, self.noise_steps
        return take_sign_steps(
            masked_loss, images, noise * mask, self.radius, step, steps, "minimise"
        )


def select_largest_gradients(loss: Loss, images: Images, share: float) -> Bool[Tensor, "n 1 h w"]:
    """Return a mask of the given share of each image's pixels, by the loss's largest gradients.

    Magnitudes are averaged over channels; at least one pixel is chosen.
    """
    moved = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(moved), moved)
    size = gradient.abs().mean(1).flatten(1)
    chosen = size.topk(max(1, round(share * size.shape[1])), dim=1).indices
    mask = torch.zeros_like(size, dtype=torch.bool).scatter_(1, chosen, True)
    return mask.view(len(images), 1, *images.shape[2:])


def find_content(images: Images) -> Bool[Tensor, "n 1 h w"]:
    """Return a mask of the pixels that are not black, and of their neighbours."""
    lit = images.amax(1, keepdim=True)
    return functional.max_pool2d(lit, 3, stride=1, padding=1) > 0
