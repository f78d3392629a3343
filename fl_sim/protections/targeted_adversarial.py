"""Targeted adversarial poison: images that a trained network assigns to the next class."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core import serialization
from fl_sim.core.errors import require_above, require_at_least
from fl_sim.core.perturbation import Loss, project, sample_uniform, take_sign_steps
from fl_sim.core.seeding import generator
from fl_sim.core.transforms import draw_crop_flip
from fl_sim.model import Model
from fl_sim.models.surrogate import Surrogate
from fl_sim.protections._shared.alternating_optimization import (
    count_outputs,
    get_image_shape,
    make_in_batches,
)


@final
@dataclass(frozen=True)
class TargetedAdversarial(Protection):
    """Adversarial examples towards the next class, used as training data (TAP).

    A model trained on them learns features of class y + 1 under the label y.

    Source: Fowl et al. (2021), Adversarial Examples Make Strong Poisons, section 3,
    https://arxiv.org/abs/2106.10807. Target and number of steps are those of the authors' code;
    the length of a step is that of the TAP baseline in the code of Fu et al. (2022), Robust
    Unlearnable Examples, which starts at random (`start="uniform"`). The authors' own recipe is
    `step_size=radius / 20, start="gaussian", restarts=8, surrogate_epochs=40,
    clip_gradient=None`: 8 times the passes.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        surrogate: Network that is attacked.
        surrogate_epochs: Number of epochs of its training on clean images.
        noise_steps: Number of sign steps per image.
        step_size: Size of a sign step, in [0, 1]; None for the radius over 125.
        padding: Largest shift, in pixels, of the random crops and flips under which the attack
            has to work; 0 for no transforms.
        batch_size, learning_rate: Settings of its SGD (momentum 0.9, weight decay 5e-4).
        start: Start of the noise: `zero`; `uniform` within the radius; or `gaussian` with the
            radius as its standard deviation, clipped to the radius.
        restarts: Number of attacks per batch, of which the one with the lowest loss is used.
        clip_gradient: Largest norm of the surrogate's gradients; None for no clipping, as in the
            authors' code.
    """

    radius: float = 8 / 255
    surrogate: Model = field(default_factory=Model)
    surrogate_epochs: int = 8
    noise_steps: int = 250
    step_size: float | None = None
    padding: int = 4
    batch_size: int = 128
    learning_rate: float = 0.1
    start: Literal["zero", "uniform", "gaussian"] = serialization.omit_if_default("zero")
    restarts: int = serialization.omit_if_default(1)
    clip_gradient: float | None = serialization.omit_if_default(5.0)
    short: ClassVar[str] = "tap"
    min_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "surrogate_epochs", "noise_steps", "batch_size", "restarts")
        require_above(self, 0, "step_size", "clip_gradient", or_none=True)
        require_at_least(self, 0, "padding")
        require_above(self, 0, "learning_rate")

    def predict_passes(self, num_images: int, num_classes: int) -> int:
        """Return the number of passes: epochs, attacks, and comparisons of two attacks."""
        compared = 2 * (self.restarts - 1)
        attacks = self.restarts * self.noise_steps
        return (self.surrogate_epochs + attacks + compared) * num_images

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return noise of attacks on a surrogate that is trained on the clean images."""
        shape, num_classes = get_image_shape(images), count_outputs(labels)
        rate, clip = self.learning_rate, self.clip_gradient
        surrogate = Surrogate(self.surrogate, shape, num_classes, seed, rate, clip)
        rng = generator(seed, "targeted_adversarial", "surrogate")
        epochs, size = self.surrogate_epochs, self.batch_size
        surrogate.fit(images, labels, epochs, size, self.padding, rng)
        targets = (labels + 1) % num_classes

        def make_noise(number: int, rows: Tensor) -> Tensor:
            rng = generator(seed, "targeted_adversarial", "batch", int(rows[0]))
            return self._attack_repeatedly(surrogate.make_loss(targets[rows]), images[rows], rng)

        return make_in_batches(make_noise, len(images), self.batch_size)

    def _attack_repeatedly(self, loss: Loss, images: Images, rng: torch.Generator) -> Images:
        """Return the noise of a batch with the lowest loss of `restarts` attacks."""
        best = self._attack(loss, images, rng)
        for _ in range(self.restarts - 1):
            noise = self._attack(loss, images, rng)
            with torch.no_grad():
                is_better = bool(loss(images + noise) < loss(images + best))
            best = noise if is_better else best
        return best

    def _attack(self, loss: Loss, images: Images, rng: torch.Generator) -> Images:
        def transformed_loss(moved: Tensor) -> Tensor:
            return loss(draw_crop_flip(len(moved), self.padding, self.padding > 0, rng)(moved))

        start, radius = self._draw_start(images, rng), self.radius
        step, steps = self.step_size or radius / 125, self.noise_steps
        return take_sign_steps(transformed_loss, images, start, radius, step, steps, "minimise")

    def _draw_start(self, images: Images, rng: torch.Generator) -> Images:
        """Return the start of the noise."""
        if self.start == "zero":
            return torch.zeros_like(images)
        if self.start == "uniform":
            return sample_uniform(images, self.radius, rng)
        drawn = self.radius * torch.randn(images.shape, generator=rng)
        return project(drawn, images, self.radius)
