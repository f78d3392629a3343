"""Error-minimising noise: the classic unlearnable example."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim import description
from fl_sim.contracts import Protection
from fl_sim.errors import require
from fl_sim.experiment import Model
from fl_sim.models.architectures import channels_last
from fl_sim.models.tuning import build
from fl_sim.perturbation import Loss, sign_steps
from fl_sim.seeding import generator

CLIP_GRADIENT = 5.0
CLASS_SUBSET = 0.2  # share of the images on which class-wise noise is updated


@final
@dataclass(frozen=True)
class ErrorMinimizing(Protection):
    """Noise that makes the loss so small that there is nothing left to learn.

    A surrogate and the noise take turns in minimising the loss: a few steps of the surrogate
    on the noisy images, then sign steps of the noise against the surrogate, until the
    surrogate's error on the noisy images falls to `stop_error`. The noise is added first and
    the sum is clipped; the released evaluation code of the paper clips the noise instead and
    so applies half of it.

    Source: Huang et al. (2021), Unlearnable Examples, section 4,
    https://arxiv.org/abs/2101.04898. Training on such images alone gives chance level on
    colour photographs; on small grey images it costs tens of points.

    Attributes:
        radius: of the L-infinity ball, in pixels of [0, 1], such as 16 / 255.
        form: one noise an image (`sample`), or one a class (`class`).
        surrogate: network that is trained along.
        surrogate_steps: steps of the surrogate between two passes over the noise.
        noise_steps: sign steps an image and pass; one in the class-wise form.
        step_size: length of a sign step; None: a tenth of the radius.
        stop_error: share of noisy images that the surrogate may still get wrong.
        max_passes: cap, since the error does not fall monotonically.
        batch_size, learning_rate: of the surrogate (SGD, momentum 0.9, weight decay 5e-4).
    """

    radius: float = 8 / 255
    form: Literal["sample", "class"] = "sample"
    surrogate: str = "small_cnn"
    surrogate_steps: int = 10
    noise_steps: int = 20
    step_size: float | None = None
    stop_error: float = 0.01
    max_passes: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        description.check_types(self)
        fits = 0 < self.radius <= 1
        require(fits, "radius", "in pixels of [0, 1], such as 16/255", self.radius)
        for name in ("surrogate_steps", "noise_steps", "max_passes", "batch_size"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        require(0 <= self.stop_error < 1, "stop_error", "in [0, 1)", self.stop_error)
        require(self.learning_rate > 0, "learning_rate", "above 0", self.learning_rate)
        step = self.step_size
        require(step is None or step > 0, "step_size", "above 0, or None", step)

    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Return sample-wise noise, or each image's share of the class-wise noise."""
        surrogate = _Surrogate(self, images, labels, seed)
        if self.form == "sample":
            return self._sample_wise(surrogate, images, labels)
        return self._class_wise(surrogate, images, labels, seed)[labels]

    def _sample_wise(
        self, surrogate: "_Surrogate", images: Tensor, labels: Tensor
    ) -> Float[Tensor, "n c h w"]:
        noise = torch.zeros_like(images)
        for _ in range(self.max_passes):
            surrogate.learn(noise)
            noise = torch.cat(
                [
                    self._stepped(surrogate, images[rows], labels[rows], noise[rows])
                    for rows in torch.arange(len(images)).split(self.batch_size)
                ]
            )
            if surrogate.error(images + noise, labels) <= self.stop_error:
                break
        return noise

    def _class_wise(
        self, surrogate: "_Surrogate", images: Tensor, labels: Tensor, seed: int
    ) -> Float[Tensor, "y c h w"]:
        num_classes = int(labels.max()) + 1
        noise = torch.zeros(num_classes, *images.shape[1:])
        rng = generator(seed, "error_minimizing", "subset")
        wanted = max(self.batch_size, round(CLASS_SUBSET * len(images)))
        subset = torch.randperm(len(images), generator=rng)[:wanted]
        for _ in range(self.max_passes):
            surrogate.learn(noise[labels])
            for rows in subset[torch.randperm(len(subset), generator=rng)].split(self.batch_size):
                own = labels[rows]
                moved = self._stepped(surrogate, images[rows], own, noise[own], num_steps=1)
                present = own.unique()
                for_class = torch.zeros_like(noise).index_add_(0, own, moved)
                counts = own.bincount(minlength=num_classes)[present].view(-1, 1, 1, 1)
                noise[present] = (for_class[present] / counts).clamp(-self.radius, self.radius)
            seen = (images[subset] + noise[labels[subset]]).clamp(0, 1)
            if surrogate.error(seen, labels[subset]) <= self.stop_error:
                break
        return noise

    def _stepped(
        self,
        surrogate: "_Surrogate",
        images: Tensor,
        labels: Tensor,
        noise: Tensor,
        num_steps: int | None = None,
    ) -> Float[Tensor, "n c h w"]:
        return sign_steps(
            surrogate.loss(labels),
            images,
            noise,
            self.radius,
            self.step_size or self.radius / 10,
            num_steps or self.noise_steps,
            "minimise",
        )


class _Surrogate:
    """The network that is trained along with the noise, batch after batch in a fixed order."""

    def __init__(
        self, settings: ErrorMinimizing, images: Tensor, labels: Tensor, seed: int
    ) -> None:
        shape = (images.shape[1], images.shape[2], images.shape[3])
        num_classes = int(labels.max()) + 1
        network = build(Model(settings.surrogate), shape, num_classes, seed).trained
        self.model: nn.Sequential = channels_last(network)
        self.images, self.labels, self.settings = images, labels, settings
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), settings.learning_rate, momentum=0.9, weight_decay=5e-4
        )
        rng = generator(seed, "error_minimizing", "batches")
        self.order = torch.randperm(len(images), generator=rng)
        self.position = 0

    def learn(self, noise: Tensor) -> None:
        """Take the surrogate's steps, going on where the last call stopped."""
        self.model.train().requires_grad_(True)
        for _ in range(self.settings.surrogate_steps):
            rows = self.order[self.position : self.position + self.settings.batch_size]
            self.position += len(rows)
            if self.position >= len(self.order):
                self.position = 0
            logits = self.model(self.images[rows] + noise[rows])
            self.optimizer.zero_grad()
            functional.cross_entropy(logits, self.labels[rows]).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_GRADIENT)
            self.optimizer.step()
        self.model.eval().requires_grad_(False)

    def loss(self, labels: Tensor) -> Loss:
        """Return the loss as a function of the images that have these labels."""
        return lambda images: functional.cross_entropy(self.model(images), labels, reduction="sum")

    @torch.no_grad()
    def error(self, images: Tensor, labels: Tensor) -> float:
        """Return the share of images that the surrogate gets wrong."""
        right = [
            (self.model(batch).argmax(1) == own).sum()
            for batch, own in zip(images.split(256), labels.split(256), strict=True)
        ]
        return 1 - int(torch.stack(right).sum()) / len(images)
