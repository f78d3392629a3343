"""Targeted adversarial poison: images that look like the next class to a trained network."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import Protection
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.perturbation import Loss, check_radius, project, sample_uniform, take_sign_steps
from fl_sim.core.seeding import generator
from fl_sim.core.transforms import draw_crop_flip
from fl_sim.experiment import Model
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

    Who trains on them learns features of class y + 1 under the label y.

    Source: Fowl et al. (2021), Adversarial Examples Make Strong Poisons, section 3,
    https://arxiv.org/abs/2106.10807. Target and number of steps are those of the authors' code;
    the length of a step is that of the TAP baseline in the code of Fu et al. (2022), Robust
    Unlearnable Examples, which starts at random (`start="uniform"`). The authors' own recipe is
    `step_size=radius / 20, start="gaussian", restarts=8, surrogate_epochs=40,
    clip_gradient=None`: 8 times the passes.

    Attributes:
        radius: of the L-infinity ball, in pixels of [0, 1], such as 16 / 255.
        surrogate: network that is attacked.
        surrogate_epochs: of its training on clean images.
        noise_steps: sign steps an image.
        step_size: length of a sign step; None: the radius over 125.
        padding: of the random crops under which the attack has to work; 0: no transforms.
        batch_size, learning_rate: of the surrogate (SGD, momentum 0.9, weight decay 5e-4).
        start: of the noise: `zero`; `uniform` in the ball; or `gaussian` with the radius as its
            standard deviation, clipped to the ball.
        restarts: attacks of a batch, of which the one with the lowest loss is kept.
        clip_gradient: norm to which the surrogate's gradients are clipped; None: not at all, as
            in the authors' code.
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
        serialization.check_types(self)
        check_radius(self.radius)
        for name in ("surrogate_epochs", "noise_steps", "batch_size", "restarts"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        step = self.step_size
        require(step is None or step > 0, "step_size", "above 0, or None", step)
        require(self.padding >= 0, "padding", "at least 0", self.padding)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        clip = self.clip_gradient
        require(clip is None or clip > 0, "clip_gradient", "above 0, or None", clip)

    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Train the surrogate on clean images, then attack it image by image."""
        num_classes = count_outputs(labels)
        shape = get_image_shape(images)
        rate, clip = self.learning_rate, self.clip_gradient
        surrogate = Surrogate(self.surrogate, shape, num_classes, seed, rate, clip)
        rng = generator(seed, "targeted_adversarial", "surrogate")
        epochs, size = self.surrogate_epochs, self.batch_size
        surrogate.fit(images, labels, epochs, size, self.padding, rng)
        targets = (labels + 1) % num_classes

        def made(number: int, rows: Tensor) -> Tensor:
            rng = generator(seed, "targeted_adversarial", "batch", int(rows[0]))
            return self._attack_repeatedly(surrogate.make_loss(targets[rows]), images[rows], rng)

        return make_in_batches(made, len(images), self.batch_size)

    def _attack_repeatedly(
        self, loss: Loss, images: Float[Tensor, "n c h w"], rng: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Return the noise with the lowest loss of a batch, of as many attacks as are asked for."""
        found = self._attack(loss, images, rng)
        for _ in range(self.restarts - 1):
            other = self._attack(loss, images, rng)
            with torch.no_grad():
                better = bool(loss(images + other) < loss(images + found))
            found = other if better else found
        return found

    def _attack(
        self, loss: Loss, images: Float[Tensor, "n c h w"], rng: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        def transformed(moved: Tensor) -> Tensor:
            return loss(draw_crop_flip(len(moved), self.padding, self.padding > 0, rng)(moved))

        start, radius = self._draw_start(images, rng), self.radius
        step, steps = self.step_size or radius / 125, self.noise_steps
        return take_sign_steps(transformed, images, start, radius, step, steps, "minimise")

    def _draw_start(
        self, images: Float[Tensor, "n c h w"], rng: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Return where the noise starts."""
        if self.start == "zero":
            return torch.zeros_like(images)
        if self.start == "uniform":
            return sample_uniform(images, self.radius, rng)
        drawn = self.radius * torch.randn(images.shape, generator=rng)
        return project(drawn, images, self.radius)
