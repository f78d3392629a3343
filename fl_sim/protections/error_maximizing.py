"""Error-maximising noise: adversarial examples as poison."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import Protection
from fl_sim.errors import require
from fl_sim.experiment import Model
from fl_sim.models.surrogate import Surrogate
from fl_sim.perturbation import Loss, check_radius, sign_steps
from fl_sim.protections import turns
from fl_sim.seeding import generator


@final
@dataclass(frozen=True)
class ErrorMaximizing(Protection):
    """Noise that raises the loss of a network trained on clean images (adversarial poison).

    The surrogate is trained first and stays as it is; sign steps then raise its loss, until
    its error on the noisy images reaches `stop_error`.

    Source: the min-max baseline of Huang et al. (2021), section 4.1,
    https://arxiv.org/abs/2101.04898. Weaker than error-minimising noise there.

    Attributes:
        radius: of the L-infinity ball, in pixels of [0, 1], such as 16 / 255.
        form: one noise an image (`sample`), or one a class (`class`).
        surrogate: network that is attacked.
        surrogate_epochs: of its training on clean images.
        noise_steps: sign steps an image and pass; one in the class-wise form.
        step_size: length of a sign step; None: a tenth of the radius.
        stop_error: share of noisy images that the surrogate has to get wrong; None: 0.9
            sample-wise and 0.8 class-wise, as published.
        max_passes: cap, since the error may never rise so far.
        batch_size, learning_rate: of the surrogate (SGD, momentum 0.9, weight decay 5e-4).
        pass_steps: steps of class-wise noise in a pass, at least: the images that it is made on
            grow from a fifth to all, and are then gone through again. 0: a fifth, once, as
            published, which is 78 steps with batches of 128 of 50,000 images, and 1 of 600.
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
    pass_steps: int = description.added(0)
    short: ClassVar[str] = "max"
    min_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        description.check_types(self)
        check_radius(self.radius)
        for name in ("surrogate_epochs", "noise_steps", "max_passes", "batch_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        stop, step = self.stop_error, self.step_size
        require(stop is None or 0 < stop <= 1, "stop_error", "in (0, 1], or None", stop)
        require(step is None or step > 0, "step_size", "above 0, or None", step)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        require(self.pass_steps >= 0, "pass_steps", "at least 0", self.pass_steps)

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
        shape, num_classes = turns.shape_of(images), turns.num_outputs(labels)
        surrogate = Surrogate(self.surrogate, shape, num_classes, seed, self.learning_rate)
        rng = generator(seed, "error_maximizing", "surrogate")
        surrogate.fit(images, labels, self.surrogate_epochs, self.batch_size, 0, rng)
        stop_error = self.stop_error or (0.9 if self.form == "sample" else 0.8)
        search = turns.AlternatingNoise(
            surrogate,
            images,
            labels,
            self.batch_size,
            self.max_passes,
            rng,
            self._move,
            lambda error: error >= stop_error,
        )
        if self.form == "sample":
            return search.sample_wise()
        rng = generator(seed, "error_maximizing", "subset")
        return search.class_wise(self.radius, self.pass_steps, rng)

    def _move(
        self, loss: Loss, images: Float[Tensor, "n c h w"], noise: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        step, steps = self.step_size or self.radius / 10, self.noise_steps
        steps = steps if self.form == "sample" else 1
        return sign_steps(loss, images, noise, self.radius, step, steps, "maximise")
