"""Error-minimising noise: the classic unlearnable example."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import Protection
from fl_sim.errors import require
from fl_sim.experiment import Model
from fl_sim.models.surrogate import Batches, Surrogate
from fl_sim.perturbation import check_radius, sign_steps
from fl_sim.protections import turns
from fl_sim.seeding import generator


@final
@dataclass(frozen=True)
class ErrorMinimizing(Protection):
    """Noise that makes the loss so small that there is nothing left to learn (EM).

    A surrogate and the noise take turns in minimising the loss: a few steps of the surrogate
    on the noisy images, then sign steps of the noise against the surrogate, until the
    surrogate's error on the noisy images falls to `stop_error`.

    Source: Huang et al. (2021), Unlearnable Examples, section 4,
    https://arxiv.org/abs/2101.04898. Training on such images alone gives chance level on
    colour photographs; on small grey images it costs tens of points.

    Attributes:
        radius: of the L-infinity ball, in pixels of [0, 1], such as 16 / 255.
        form: one noise an image (`sample`), or one a class (`class`).
        apply: `full` noise; or `positive_only`, as in the paper's released evaluation code,
            which loses the negative half of the noise and truncates the rest to whole levels.
        surrogate: network that is trained along.
        surrogate_steps: steps of the surrogate between two passes over the noise.
        noise_steps: sign steps an image and pass; one in the class-wise form.
        step_size: length of a sign step; None: a tenth of the radius.
        stop_error: share of noisy images that the surrogate may still get wrong.
        max_passes: cap, since the error does not fall monotonically.
        batch_size, learning_rate: of the surrogate (SGD, momentum 0.9, weight decay 5e-4).
        pass_steps: steps of class-wise noise in a pass, at least: the images that it is made on
            grow from a fifth to all, and are then gone through again. 0: a fifth, once, as
            published, which is 78 steps with batches of 128 of 50,000 images, and 1 of 600.
    """

    radius: float = 8 / 255
    form: Literal["sample", "class"] = "sample"
    apply: Literal["full", "positive_only"] = "full"
    surrogate: Model = field(default_factory=Model)
    surrogate_steps: int = 10
    noise_steps: int = 20
    step_size: float | None = None
    stop_error: float = 0.01
    max_passes: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    pass_steps: int = description.added(0)
    short: ClassVar[str] = "em"
    min_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        description.check_types(self)
        check_radius(self.radius)
        for name in ("surrogate_steps", "noise_steps", "max_passes", "batch_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(0 <= self.stop_error < 1, "stop_error", "in [0, 1)", self.stop_error)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        require(self.pass_steps >= 0, "pass_steps", "at least 0", self.pass_steps)
        step = self.step_size
        require(step is None or step > 0, "step_size", "above 0, or None", step)

    def advice(self, num_images: int) -> str:
        """Return what to change where class-wise noise of so few images takes too few steps."""
        if self.form == "sample":
            return ""
        step = (self.step_size or self.radius / 10) / self.radius
        return turns.class_advice(
            num_images, self.batch_size, self.pass_steps, self.max_passes, step
        )

    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Return sample-wise noise, or each image's share of the class-wise noise."""
        num_classes = turns.num_outputs(labels)
        shape = turns.shape_of(images)
        surrogate = Surrogate(self.surrogate, shape, num_classes, seed, self.learning_rate)
        rng = generator(seed, "error_minimizing", "batches")
        least = surrogate.least_batch(images)
        batches = Batches(len(images), self.batch_size, rng, least)
        if self.form == "sample":
            noise = self._sample_wise(surrogate, batches, images, labels, rng)
        else:
            noise = self._class_wise(surrogate, batches, images, labels, seed)[labels]
        return noise if self.apply == "full" else _positive_only(images, noise)

    def _sample_wise(
        self,
        surrogate: Surrogate,
        batches: Batches,
        images: Tensor,
        labels: Tensor,
        rng: torch.Generator,
    ) -> Float[Tensor, "n c h w"]:
        def stepped(rows: Tensor, noise: Tensor) -> Tensor:
            return self._stepped(surrogate, images[rows], labels[rows], noise, self.noise_steps)

        def turn(noise: Tensor) -> tuple[Tensor, bool]:
            turns.learn(surrogate, batches, images, labels, noise, self.surrogate_steps)
            noise = turns.sample_pass(noise, self.batch_size, stepped)
            return noise, surrogate.error(images + noise, labels) <= self.stop_error

        start = torch.zeros_like(images)
        return turns.repeated(turn, start, self.max_passes, surrogate, rng, batches)

    def _class_wise(
        self, surrogate: Surrogate, batches: Batches, images: Tensor, labels: Tensor, seed: int
    ) -> Float[Tensor, "y c h w"]:
        def stepped(rows: Tensor, noise: Tensor) -> Tensor:
            return self._stepped(surrogate, images[rows], labels[rows], noise, 1)

        rng = generator(seed, "error_minimizing", "subset")
        subset = turns.class_subset(labels, self.batch_size, rng, self.pass_steps)

        def turn(noise: Tensor) -> tuple[Tensor, bool]:
            turns.learn(surrogate, batches, images, labels, noise[labels], self.surrogate_steps)
            chosen = turns.shuffled(subset, self.batch_size, rng, self.pass_steps)
            noise = turns.class_pass(noise, labels, chosen, self.radius, stepped)
            seen = (images[subset] + noise[labels[subset]]).clamp(0, 1)
            return noise, surrogate.error(seen, labels[subset]) <= self.stop_error

        start = torch.zeros(int(labels.max()) + 1, *images.shape[1:])
        return turns.repeated(turn, start, self.max_passes, surrogate, rng, batches)

    def _stepped(
        self, surrogate: Surrogate, images: Tensor, labels: Tensor, noise: Tensor, num_steps: int
    ) -> Float[Tensor, "n c h w"]:
        step_size = self.step_size or self.radius / 10
        loss = surrogate.loss(labels)
        return sign_steps(loss, images, noise, self.radius, step_size, num_steps, "minimise")


def _positive_only(
    images: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    """Return what is left where the noise is clamped like an image, and the sum truncated."""
    levels = (images * 255).round()
    return ((levels + (noise * 255).clamp(min=0)).clamp(max=255).floor() - levels) / 255
