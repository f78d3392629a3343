"""Base of robust and stable error-minimising noise, which differ in the disturbance."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Int64
from torch import Tensor

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core import serialization
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.perturbation import Loss, sample_uniform, take_sign_steps
from fl_sim.core.resumable import Checkpoint
from fl_sim.core.seeding import generator
from fl_sim.core.transforms import draw_crop_flip
from fl_sim.model import Model
from fl_sim.models.batches import count_samples, split_batches
from fl_sim.models.surrogate import Surrogate
from fl_sim.protections._shared.alternating_optimization import (
    count_outputs,
    get_image_shape,
    make_in_batches,
)


@dataclass(frozen=True)
class RobustNoise(Protection):
    """Noise against a surrogate that is trained adversarially.

    Each step makes new noise for the current batch, from a random start, and then takes one
    adversarial step of the surrogate on it. At the end, noise for every image is made against the
    final surrogate. Subclasses define the disturbance that the noise has to withstand. Radii are
    largest changes of a pixel, in [0, 1].
    """

    radius: float = 8 / 255
    adversary_radius: float | None = None
    surrogate: Model = field(default_factory=Model)
    surrogate_steps: int = 5000
    batch_size: int = 128
    learning_rate: float = 0.1
    noise_steps: int = 10
    transforms: int = 5
    padding: int = 4
    flip: bool = True
    adversary_steps: int = 10
    clip_gradient: float | None = serialization.omit_if_default(5.0)
    min_classes: ClassVar[int] = 2
    small: ClassVar[Mapping[str, int]] = {
        "surrogate_steps": 500,  # the fewest of Liu et al. (2024)
        "noise_steps": 5,  # of a fifth of the radius each: any point of the ball is in reach
        "transforms": 3,
        "adversary_steps": 5,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        radius = self.adversary_radius
        fits = radius is None or 0 <= radius <= self.radius
        require(fits, "adversary_radius", "from 0 to the radius, or None for half of it", radius)
        require_at_least(self, 1, "surrogate_steps", "noise_steps", "transforms", "batch_size")
        require_at_least(self, 0, "padding", "adversary_steps")
        require_above(self, 0, "learning_rate")
        require_above(self, 0, "clip_gradient", or_none=True)

    @property
    def attack_radius(self) -> float:
        """Radius of the adversary, in [0, 1]; half of the noise's by default."""
        return self.radius / 2 if self.adversary_radius is None else self.adversary_radius

    @property
    def attack_passes(self) -> int:
        """Number of passes of the adversary, per image."""
        return self.adversary_steps if self.attack_radius > 0 else 0

    @property
    def disturbance_passes(self) -> int:
        """Number of passes that a disturbance takes, per image."""
        return 0

    @final
    def predict_passes(self, num_images: int, num_classes: int) -> int:
        """Return the number of passes of the surrogate's steps, and of the noise made at last."""
        batches = math.ceil(num_images / self.batch_size)
        epochs, rest = divmod(self.surrogate_steps, batches)
        trained = epochs * num_images + rest * min(self.batch_size, num_images)
        noise = self.noise_steps * self.transforms * (1 + self.disturbance_passes)
        return trained * (noise + self.attack_passes + 1) + num_images * noise

    @abstractmethod
    def make_disturbance(self, loss: Loss, images: Images, rng: torch.Generator) -> Images:
        """Return the disturbance of transformed images that the noise has to withstand."""

    @final
    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return noise for every image against the trained surrogate."""
        surrogate = self.train_surrogate(images, labels, seed)

        def make_noise(number: int, rows: Tensor) -> Tensor:
            rng = generator(seed, self.short, "final", number)
            return self.make_batch_noise(surrogate, images[rows], labels[rows], rng)

        return make_in_batches(make_noise, len(images), self.batch_size)

    @final
    def train_surrogate(self, images: Images, labels: Labels, seed: int) -> Surrogate:
        """Return the trained surrogate; its rate falls tenfold after 40 % and 80 % of the steps."""
        shape, num_classes = get_image_shape(images), count_outputs(labels)
        rate, clip = self.learning_rate, self.clip_gradient
        surrogate = Surrogate(self.surrogate, shape, num_classes, seed, rate, clip)
        checkpoint, last = Checkpoint("surrogate"), self.surrogate_steps
        saved = checkpoint.load()
        for step in range(0 if saved is None else surrogate.load_state_dict(saved), last):
            rows = self._select_batch(len(images), step, seed, surrogate.min_batch_size(images))
            self._take_step(surrogate, images[rows], labels[rows], step, seed)
            if checkpoint.is_due() or step + 1 == last:
                checkpoint.save(surrogate.state_dict(step + 1))
        return surrogate

    def _select_batch(
        self, num_images: int, step: int, seed: int, least: int = 1
    ) -> Int64[Tensor, " m"]:
        """Return the rows of a step's batch; every epoch has its own order."""
        batches = math.ceil(count_samples(num_images, least) / self.batch_size)
        epoch, number = divmod(step, batches)
        order = torch.randperm(num_images, generator=generator(seed, self.short, "epoch", epoch))
        return split_batches(order, self.batch_size, least)[number]

    def _take_step(
        self, surrogate: Surrogate, images: Tensor, labels: Tensor, step: int, seed: int
    ) -> None:
        """Make new noise for a batch, and take an adversarial step of the surrogate on it."""
        drops = (5 * step >= 2 * self.surrogate_steps) + (5 * step >= 4 * self.surrogate_steps)
        surrogate.scale_rates(0.1**drops)
        rng = generator(seed, self.short, "step", step)
        noise = self.make_batch_noise(surrogate, images, labels, rng)
        transform = draw_crop_flip(len(images), self.padding, self.flip, rng)
        # Released images have whole levels, so the surrogate is trained on rounded noise.
        inputs = transform(images + (noise * 255).round() / 255)
        surrogate.step(inputs + self.attack(surrogate.make_loss(labels), inputs, rng), labels)

    @final
    def make_batch_noise(
        self, surrogate: Surrogate, images: Images, labels: Labels, rng: torch.Generator
    ) -> Images:
        """Return noise that minimises the loss over transforms and disturbances.

        Each step is the sign of the mean gradient over `transforms` draws.
        """
        loss = surrogate.make_loss(labels)

        def expected(moved: Tensor) -> Tensor:
            total = torch.zeros(())
            for _ in range(self.transforms):
                inputs = draw_crop_flip(len(moved), self.padding, self.flip, rng)(moved)
                total = total + loss(inputs + self.make_disturbance(loss, inputs.detach(), rng))
            return total

        start = sample_uniform(images, self.radius, rng)
        steps, size = self.noise_steps, self.radius / 5
        return take_sign_steps(expected, images, start, self.radius, size, steps, "minimise")

    @final
    def attack(self, loss: Loss, images: Images, rng: torch.Generator) -> Images:
        """Return the adversary's change, by projected sign steps from a random start."""
        radius = self.attack_radius
        if radius == 0 or self.adversary_steps == 0:
            return torch.zeros_like(images)
        start = sample_uniform(images, radius, rng)
        steps = self.adversary_steps
        return take_sign_steps(loss, images, start, radius, radius / 5, steps, "maximise")
