"""Error-maximising noise: adversarial examples as poison."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from fl_sim.contracts import Images, Labels
from fl_sim.core import serialization
from fl_sim.core.errors import require, require_at_least
from fl_sim.core.seeding import generator
from fl_sim.model import Model
from fl_sim.models.surrogate import Surrogate
from fl_sim.protections._shared.alternating_optimization import (
    AlternatingNoise,
    SignStepNoise,
    count_outputs,
    get_image_shape,
)


@final
@dataclass(frozen=True)
class ErrorMaximizing(SignStepNoise):
    """Noise that raises the loss of a network trained on clean images (adversarial poison).

    The surrogate is trained first and stays as it is; sign steps then raise its loss, until
    its error on the noisy images reaches `stop_error`.

    Source: the min-max baseline of Huang et al. (2021), section 4.1,
    https://arxiv.org/abs/2101.04898. Weaker than error-minimising noise there.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        form: One noise per image (`sample`) or per class (`class`).
        surrogate: Network that is attacked.
        surrogate_epochs: Number of epochs of its training on clean images.
        noise_steps: Number of sign steps per image and pass; one in the class-wise form.
        step_size: Size of a sign step, in [0, 1]; None for a tenth of the radius.
        stop_error: Error of the surrogate on noisy images at which the passes end; None for 0.9
            sample-wise and 0.8 class-wise, as published.
        max_passes: Largest number of passes, since the error may never rise so far.
        batch_size, learning_rate: Settings of its SGD (momentum 0.9, weight decay 5e-4).
        pass_steps: Smallest number of steps per pass of class-wise noise. The images that it is
            made on grow from a fifth to all, and are then repeated. 0 takes a fifth once, as
            published: 78 steps with batches of 128 of 50,000 images, but 1 step of 600 images.
    """

    radius: float = 8 / 255
    form: Literal["sample", "class"] = "sample"
    surrogate: Model = field(default_factory=Model)
    surrogate_epochs: int = 8
    noise_steps: int = 20
    step_size: float | None = None
    stop_error: float | None = None
    max_passes: int = 10
    batch_size: int = 128
    learning_rate: float = 0.1
    pass_steps: int = serialization.omit_if_default(0)
    short: ClassVar[str] = "max"
    direction: ClassVar[Literal["minimise", "maximise"]] = "maximise"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "surrogate_epochs")
        stop = self.stop_error
        require(stop is None or 0 < stop <= 1, "stop_error", "in (0, 1], or None", stop)

    def predict_surrogate_passes(self, num_images: int) -> int:
        """Return the number of passes of the epochs on clean images."""
        return self.surrogate_epochs * num_images

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return sample-wise noise, or the noise of each image's class."""
        shape, rate = get_image_shape(images), self.learning_rate
        surrogate = Surrogate(self.surrogate, shape, count_outputs(labels), seed, rate)
        rng = generator(seed, "error_maximizing", "surrogate")
        surrogate.fit(images, labels, self.surrogate_epochs, self.batch_size, 0, rng)
        stop_error = self.stop_error or (0.9 if self.form == "sample" else 0.8)
        search = AlternatingNoise(
            surrogate,
            images,
            labels,
            self.batch_size,
            self.max_passes,
            rng,
            self.move,
            lambda error: error >= stop_error,
        )
        if self.form == "sample":
            return search.make_sample_wise()
        rng = generator(seed, "error_maximizing", "subset")
        return search.make_class_wise(self.radius, self.pass_steps, rng)
