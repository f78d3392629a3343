"""Alternating optimisation of noise and a surrogate, per image or per class.

Shared by the protections with a surrogate. An interrupted call is resumed by the next one.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core.errors import require_above, require_at_least
from fl_sim.core.perturbation import Loss, take_sign_steps
from fl_sim.core.resumable import Checkpoint
from fl_sim.models.surrogate import BatchCycle, Surrogate, count_cycled

PUBLISHED_STEPS = 78  # per pass of class-wise noise: a fifth of 50,000 images in batches of 128
CLASS_SUBSET = 0.2  # share of the images on which class-wise noise is updated
NoisePass = Callable[[Float[Tensor, "_ c h w"]], tuple[Float[Tensor, "_ c h w"], bool]]
Step = Callable[
    [Loss, Float[Tensor, "m c h w"], Float[Tensor, "m c h w"]], Float[Tensor, "m c h w"]
]


@dataclass(frozen=True, eq=False)
class AlternatingNoise:
    """Passes over the noise, each after some steps of the surrogate, until a stopping rule.

    Attributes:
        surrogate: Network whose loss the noise lowers or raises.
        images: Clean images, in [0, 1].
        labels: Labels of the images.
        batch_size: Number of images whose noise is updated together.
        max_passes: Largest number of passes.
        rng: Generator that was given to `batches`, or to the surrogate's training; its state is
            saved to resume an interrupted call.
        step: Function that updates the noise of a batch, given the loss, images and noise.
        is_enough: Stopping rule on the surrogate's error on noisy images.
        batches: Batches of the surrogate; None if it is not trained any further.
        surrogate_steps: Number of steps of the surrogate before each pass.
        targets: Labels whose loss the noise changes and whose error stops the passes, where they
            differ from the labels that the surrogate is trained on; None for these labels.
    """

    surrogate: Surrogate
    images: Images
    labels: Labels
    batch_size: int
    max_passes: int
    rng: torch.Generator
    step: Step
    is_enough: Callable[[float], bool]
    batches: BatchCycle | None = None
    surrogate_steps: int = 0
    targets: Labels | None = None

    @property
    def aims(self) -> Labels:
        """Labels towards which, or away from which, the noise moves the surrogate."""
        return self.labels if self.targets is None else self.targets

    def make_sample_wise(self) -> Images:
        """Return noise optimised for each image."""
        batches = torch.arange(len(self.images)).split(self.batch_size)

        def run_pass(noise: Tensor) -> tuple[Tensor, bool]:
            self.train_surrogate(noise)
            noise = torch.cat([self._move(rows, noise[rows]) for rows in batches])
            error = self.surrogate.compute_error(self.images + noise, self.aims)
            return noise, self.is_enough(error)

        return self._run_passes(run_pass, torch.zeros_like(self.images))

    def make_class_wise(self, radius: float, pass_steps: int, rng: torch.Generator) -> Images:
        """Return noise that all images of a class share.

        Args:
            radius: Largest change of a pixel, in [0, 1].
            pass_steps: Smallest number of steps per pass.
            rng: Generator of the images that the noise is made on, and of their order.
        """
        subset = select_class_subset(self.labels, self.batch_size, rng, pass_steps)
        images, labels, aims = self.images[subset], self.labels[subset], self.aims[subset]

        def run_pass(noise: Tensor) -> tuple[Tensor, bool]:
            self.train_surrogate(noise[self.labels])
            noise = noise.clone()
            for rows in shuffle_batches(subset, self.batch_size, rng, pass_steps):
                self._move_classes(rows, noise, radius)
            error = self.surrogate.compute_error((images + noise[labels]).clamp(0, 1), aims)
            return noise, self.is_enough(error)

        start = torch.zeros(int(self.labels.max()) + 1, *self.images.shape[1:])
        return self._run_passes(run_pass, start)[self.labels]

    def train_surrogate(self, noise: Images) -> None:
        """Train the surrogate for its steps on images + noise, without clipping the sum."""
        if self.batches is not None:
            for _ in range(self.surrogate_steps):
                rows = self.batches.next()
                self.surrogate.step(self.images[rows] + noise[rows], self.labels[rows])

    def _move(
        self, rows: Int64[Tensor, " m"], noise: Float[Tensor, "m c h w"]
    ) -> Float[Tensor, "m c h w"]:
        return self.step(self.surrogate.make_loss(self.aims[rows]), self.images[rows], noise)

    def _move_classes(
        self, rows: Int64[Tensor, " m"], noise: Float[Tensor, "y c h w"], radius: float
    ) -> None:
        """Update the noise of each class to the mean of the updated noise of its images."""
        labels = self.labels[rows]
        moved, present = self._move(rows, noise[labels]), labels.unique()
        sums = torch.zeros_like(noise).index_add_(0, labels, moved)
        counts = labels.bincount(minlength=len(noise))[present].view(-1, 1, 1, 1)
        noise[present] = (sums[present] / counts).clamp(-radius, radius)

    def _run_passes(
        self, run_pass: NoisePass, noise: Float[Tensor, "m c h w"]
    ) -> Float[Tensor, "m c h w"]:
        """Return the noise after `max_passes`, or after the first pass that is enough."""
        checkpoint, first = Checkpoint("turns"), 0
        saved = checkpoint.load()
        if saved is not None:
            first, noise = self.surrogate.load_state_dict(saved, self.rng), saved["noise"]
            if self.batches is not None:
                self.batches.position = int(saved["position"])
        for number in range(first, self.max_passes):
            noise, enough = run_pass(noise)
            if enough:
                break
            if checkpoint.is_due():
                position = torch.tensor(0 if self.batches is None else self.batches.position)
                progress = {"noise": noise, "position": position}
                checkpoint.save({**self.surrogate.state_dict(number + 1, self.rng), **progress})
        return noise


def make_in_batches(
    make_noise: Callable[[int, Int64[Tensor, " m"]], Float[Tensor, "m c h w"]],
    num_images: int,
    batch_size: int,
) -> Images:
    """Return the noise of all images; `make_noise` takes the number and the rows of a batch."""
    checkpoint = Checkpoint("batches")
    saved = checkpoint.load()
    parts = [] if saved is None else list(saved["noise"].split(batch_size))
    batches = torch.arange(num_images).split(batch_size)
    for number in range(len(parts), len(batches)):
        parts.append(make_noise(number, batches[number]))
        if checkpoint.is_due():
            checkpoint.save({"noise": torch.cat(parts)})
    return torch.cat(parts)


def select_class_subset(
    labels: Labels, batch_size: int, rng: torch.Generator, pass_steps: int = 0
) -> Int64[Tensor, " m"]:
    """Return the rows of a random subset on which class-wise noise is updated.

    The subset grows with the number of steps. One image of each missing class is added, since the
    class would have no noise otherwise.
    """
    num_images = len(labels)
    size = max(batch_size, round(CLASS_SUBSET * num_images), pass_steps * batch_size)
    order = torch.randperm(num_images, generator=rng)
    subset, others = order[:size], order[size:]
    missing = others[~torch.isin(labels[others], labels[subset])]
    by_class = labels[missing].argsort(stable=True)
    counts = labels[missing].unique(return_counts=True)[1]
    # `counts.cumsum(0) - counts` is the position of the first image of each missing class.
    return torch.cat([subset, missing[by_class[counts.cumsum(0) - counts]]])


def shuffle_batches(
    subset: Int64[Tensor, " m"], batch_size: int, rng: torch.Generator, pass_steps: int = 0
) -> tuple[Int64[Tensor, " b"], ...]:
    """Return new batches of the subset, which is repeated until there are `pass_steps`."""
    batches: list[Tensor] = []
    while not batches or len(batches) < pass_steps:
        order = subset[torch.randperm(len(subset), generator=rng)]
        batches += order.split(batch_size)
    return tuple(batches[: max(pass_steps, math.ceil(len(subset) / batch_size))])


def count_class_passes(num_images: int, num_classes: int, batch_size: int, pass_steps: int) -> int:
    """Return the largest number of images in the batches of `shuffle_batches`."""
    size = max(batch_size, round(CLASS_SUBSET * num_images), pass_steps * batch_size)
    subset = min(size + num_classes, num_images)  # with an image of each class that is missing
    return count_cycled(subset, batch_size, max(pass_steps, math.ceil(subset / batch_size)))


def count_outputs(labels: Labels) -> int:
    """Return the number of outputs of a surrogate, at least two.

    A single output, as for an owner with images of class 0 alone, would give no gradient and no
    noise.
    """
    return max(2, int(labels.max()) + 1)


def get_image_shape(images: Images) -> tuple[int, int, int]:
    """Return channels, height and width."""
    return images.shape[1], images.shape[2], images.shape[3]


class SignStepNoise(Protection):
    """Noise by sign steps against a surrogate, per image or per class."""

    form: Literal["sample", "class"]
    noise_steps: int
    step_size: float | None
    max_passes: int
    batch_size: int
    learning_rate: float
    pass_steps: int
    direction: ClassVar[Literal["minimise", "maximise"]]
    min_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "noise_steps", "max_passes", "batch_size")
        require_above(self, 0, "step_size", or_none=True)
        require_above(self, 0, "learning_rate")
        require_at_least(self, 0, "pass_steps")

    def advice(self, num_images: int) -> str:
        """Return a hint if class-wise noise of so few images takes too few steps, or "".

        With a single step per pass, the surrogate learns the images before the noise has grown;
        and noise whose steps cannot add up to its radius is weak for any images.
        """
        size, step = self.batch_size, self.step_size or self.radius / 10
        least = math.ceil(max(1, round(CLASS_SUBSET * num_images) / size))
        steps = max(self.pass_steps, least)
        enough = steps > 1 and steps * self.max_passes * (step / self.radius) > 1 - 1e-6
        if self.form == "sample" or enough:
            return ""
        plural, usual = "" if steps == 1 else "s", PUBLISHED_STEPS
        return (
            f"pass_steps: class-wise noise of {num_images} images takes {steps} step{plural} a "
            f"pass (published: {usual}) and will be weak; set pass_steps={usual}, or form=sample"
        )

    def predict_passes(self, num_images: int, num_classes: int) -> int:
        """Return the number of passes if the noise never stops early."""
        if self.form == "sample":
            each = self.noise_steps * num_images
        else:
            each = count_class_passes(num_images, num_classes, self.batch_size, self.pass_steps)
        return self.predict_surrogate_passes(num_images) + self.max_passes * each

    @abstractmethod
    def predict_surrogate_passes(self, num_images: int) -> int:
        """Return the number of passes of the surrogate's training."""

    def move(self, loss: Loss, images: Images, noise: Images) -> Images:
        """Return the noise after the sign steps of a pass; the class-wise form takes one."""
        step, steps = self.step_size or self.radius / 10, self.noise_steps
        steps = steps if self.form == "sample" else 1
        return take_sign_steps(loss, images, noise, self.radius, step, steps, self.direction)
