"""BAIT: noise that binds images to wrong classes, against training from pretrained weights."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from fl_sim.contracts import Images, Labels
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
class Bait(SignStepNoise):
    """Noise that a pretrained network reads as another class, while it is trained on the true one.

    A pretrained network knows what images show before it sees the noise, so that noise which is
    merely easy to learn is ignored. Here the surrogate starts from pretrained weights. Some of its
    steps on the noisy images with their labels (the inner level) alternate with sign steps of the
    noise towards a wrong class (the outer level), for a number of passes. A trainer then meets the
    features of the wrong class under the label of the right one.

    Source: Li et al. (2026), When Priors Backfire, https://arxiv.org/abs/2603.04731. Its abstract
    states the two levels, the designated incorrect targets and the pretrained start. These are
    choices of this project: class y + `shift` as the target; a first-order outer level, which does
    not differentiate through the surrogate's steps; and all numbers of steps.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        form: One noise per image (`sample`) or per class (`class`).
        surrogate: Network that the trainer is expected to start from.
        shift: Distance from a class to its target among the classes, modulo their number.
        surrogate_steps: Number of steps of the surrogate between two passes over the noise.
        noise_steps: Number of sign steps per image and pass; one in the class-wise form.
        step_size: Size of a sign step, in [0, 1]; None for a tenth of the radius.
        max_passes: Number of passes.
        batch_size, learning_rate: Settings of its SGD (momentum 0.9, weight decay 5e-4).
        pass_steps: Smallest number of steps per pass of class-wise noise; see `ErrorMinimizing`.
    """

    radius: float = 8 / 255
    form: Literal["sample", "class"] = "sample"
    surrogate: Model = field(default_factory=lambda: Model("efficientnet_lite0", "pretrained"))
    shift: int = 1
    surrogate_steps: int = 10
    noise_steps: int = 10
    step_size: float | None = None
    max_passes: int = 10
    batch_size: int = 64
    learning_rate: float = 0.05
    pass_steps: int = 0
    short: ClassVar[str] = "bait"
    direction: ClassVar[Literal["minimise", "maximise"]] = "minimise"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "shift", "surrogate_steps")

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Raise a `FieldError` if the target of a class would be the class itself."""
        outputs = max(2, num_classes)
        require(self.shift % outputs != 0, "shift", f"no multiple of {outputs}", self.shift)

    def predict_surrogate_passes(self, num_images: int) -> int:
        """Return the number of passes of the steps before each pass over the noise."""
        steps = self.max_passes * self.surrogate_steps
        return count_cycled(num_images, self.batch_size, steps)

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return sample-wise noise, or the noise of each image's class."""
        shape, num_classes = get_image_shape(images), count_outputs(labels)
        surrogate = Surrogate(self.surrogate, shape, num_classes, seed, self.learning_rate)
        rng = generator(seed, "bait", "batches")
        search = AlternatingNoise(
            surrogate,
            images,
            labels,
            self.batch_size,
            self.max_passes,
            rng,
            self.move,
            lambda error: False,  # the surrogate is reached at once, and then learns its way out
            BatchCycle(len(images), self.batch_size, rng, surrogate.min_batch_size(images)),
            self.surrogate_steps,
            (labels + self.shift) % num_classes,
        )
        if self.form == "sample":
            return search.make_sample_wise()
        return search.make_class_wise(
            self.radius, self.pass_steps, generator(seed, "bait", "subset")
        )
