"""Error-minimising noise: the classic unlearnable example."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator
from fl_sim.experiment import Model
from fl_sim.models.surrogate import BatchCycle, Surrogate
from fl_sim.protections._shared import alternating_optimization


@final
@dataclass(frozen=True)
class ErrorMinimizing(alternating_optimization.SignStepNoise):
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
    pass_steps: int = serialization.omit_if_default(0)
    short: ClassVar[str] = "em"
    direction: ClassVar[Literal["minimise", "maximise"]] = "minimise"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.surrogate_steps >= 1, "surrogate_steps", "at least 1", self.surrogate_steps)
        require(0 <= self.stop_error < 1, "stop_error", "in [0, 1)", self.stop_error)

    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Return sample-wise noise, or each image's share of the class-wise noise."""
        shape, num_classes = (
            alternating_optimization.get_image_shape(images),
            alternating_optimization.count_outputs(labels),
        )
        surrogate = Surrogate(self.surrogate, shape, num_classes, seed, self.learning_rate)
        rng = generator(seed, "error_minimizing", "batches")
        batches = BatchCycle(len(images), self.batch_size, rng, surrogate.min_batch_size(images))
        search = alternating_optimization.AlternatingNoise(
            surrogate,
            images,
            labels,
            self.batch_size,
            self.max_passes,
            rng,
            self.move,
            lambda error: error <= self.stop_error,
            batches,
            self.surrogate_steps,
        )
        if self.form == "sample":
            noise = search.make_sample_wise()
        else:
            rng = generator(seed, "error_minimizing", "subset")
            noise = search.make_class_wise(self.radius, self.pass_steps, rng)
        return noise if self.apply == "full" else _clamp_positive(images, noise)


def _clamp_positive(
    images: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    """Return what is left where the noise is clamped like an image, and the sum truncated."""
    levels = (images * 255).round()
    return ((levels + (noise * 255).clamp(min=0)).clamp(max=255).floor() - levels) / 255
