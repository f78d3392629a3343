"""Error-minimising noise: the original unlearnable examples."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from fl_sim.contracts import Images, Labels
from fl_sim.core import serialization
from fl_sim.core.errors import require, require_at_least
from fl_sim.core.seeding import generator
from fl_sim.model import Model
from fl_sim.models.surrogate import BatchCycle, Surrogate, count_cycled
from fl_sim.protections._shared.alternating_optimization import (
    AlternatingNoise,
    SignStepNoise,
    count_outputs,
    get_image_shape,
)


@final
@dataclass(frozen=True)
class ErrorMinimizing(SignStepNoise):
    """Noise that makes the loss so small that there is nothing left to learn (EM).

    A surrogate and the noise minimise the loss alternately: some steps of the surrogate on the
    noisy images, then sign steps of the noise, until the surrogate's error on the noisy images
    falls to `stop_error`.

    Source: Huang et al. (2021), Unlearnable Examples, section 4,
    https://arxiv.org/abs/2101.04898. Training on such images alone gives chance level on
    colour photographs; on small grey images it costs tens of points.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        form: One noise per image (`sample`) or per class (`class`).
        apply: `full` noise; or `positive_only`, as in the paper's released evaluation code,
            which loses the negative half of the noise and truncates the rest to whole levels.
        surrogate: Network that is trained together with the noise.
        surrogate_steps: Number of steps of the surrogate between two passes over the noise.
        noise_steps: Number of sign steps per image and pass; one in the class-wise form.
        step_size: Size of a sign step, in [0, 1]; None for a tenth of the radius.
        stop_error: Error of the surrogate on noisy images at which the passes end.
        max_passes: Largest number of passes, since the error does not fall monotonically.
        batch_size, learning_rate: Settings of its SGD (momentum 0.9, weight decay 5e-4).
        pass_steps: Smallest number of steps per pass of class-wise noise. The images that it is
            made on grow from a fifth to all, and are then repeated. 0 takes a fifth once, as
            published: 78 steps with batches of 128 of 50,000 images, but 1 step of 600 images.
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
        require_at_least(self, 1, "surrogate_steps")
        require(0 <= self.stop_error < 1, "stop_error", "in [0, 1)", self.stop_error)

    def predict_surrogate_passes(self, num_images: int) -> int:
        """Return the number of passes of the steps before each pass over the noise."""
        steps = self.max_passes * self.surrogate_steps
        return count_cycled(num_images, self.batch_size, steps)

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return sample-wise noise, or the noise of each image's class."""
        shape, rate = get_image_shape(images), self.learning_rate
        surrogate = Surrogate(self.surrogate, shape, count_outputs(labels), seed, rate)
        rng = generator(seed, "error_minimizing", "batches")
        batches = BatchCycle(len(images), self.batch_size, rng, surrogate.min_batch_size(images))
        search = AlternatingNoise(
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


def _clamp_positive(images: Images, noise: Images) -> Images:
    """Return the noise that remains if noise is clamped like an image, and the sum truncated."""
    levels = (images * 255).round()
    return ((levels + (noise * 255).clamp(min=0)).clamp(max=255).floor() - levels) / 255
