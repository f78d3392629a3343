"""Perturbation-induced linearisation: noise that a linear model learns instead of the image."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Images, Labels, Protection
from fl_sim.core import pass_counter
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.perturbation import take_sign_steps
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.protections._shared.alternating_optimization import count_outputs, make_in_batches

BATCH = 512


@final
@dataclass(frozen=True)
class Linearization(Protection):
    """Noise from which a linear model predicts the class, without information in the image (PIL).

    With a linear model trained on clean images, sign steps lower the cross-entropy of its
    prediction from the noise alone, and pull its prediction for the released image towards the
    uniform distribution. No network is needed, so this is one of the cheapest protections.

    Source: perturbation-induced linearisation (ICLR 2026), as its released code states the
    objective; how the linear model is trained is this project's.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        noise_steps: Number of sign steps per image.
        step_size: Size of a sign step, in [0, 1]; None for a tenth of the radius.
        uniformity: Weight, from 0 to 1, of the uniform prediction in the objective.
        surrogate_epochs, learning_rate: Settings of the linear model (SGD, momentum 0.9).
    """

    radius: float = 8 / 255
    noise_steps: int = 30
    step_size: float | None = None
    uniformity: float = 0.1
    surrogate_epochs: int = 10
    learning_rate: float = 0.01
    short: ClassVar[str] = "pil"
    min_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "noise_steps", "surrogate_epochs")
        require_above(self, 0, "step_size", or_none=True)
        share = self.uniformity
        require(0 <= share <= 1, "uniformity", "between 0 and 1", share)
        require_above(self, 0, "learning_rate")

    def predict_passes(self, num_images: int, num_classes: int) -> int:
        """Return the number of sign steps times that of images."""
        return self.noise_steps * num_images

    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return noise against a linear model that is trained on the clean images."""
        linear = self._train_linear_model(images, labels, seed)

        def make_noise(number: int, rows: Tensor) -> Tensor:
            clean, targets = images[rows], labels[rows]

            def objective(moved: Tensor) -> Tensor:
                pass_counter.count(len(moved))
                shortcut = functional.cross_entropy(linear(clean - moved), targets, reduction="sum")
                uniform: Tensor = -linear(moved).log_softmax(1).mean(1).sum()
                return (1 - self.uniformity) * shortcut + self.uniformity * uniform

            step, start = self.step_size or self.radius / 10, torch.zeros_like(clean)
            steps = self.noise_steps
            return take_sign_steps(objective, clean, start, self.radius, step, steps, "minimise")

        return make_in_batches(make_noise, len(images), BATCH)

    def _train_linear_model(self, images: Tensor, labels: Tensor, seed: int) -> nn.Module:
        with seed_torch(seed, "linearization"):
            layer = nn.Linear(images[0].numel(), count_outputs(labels), bias=False)
        linear = nn.Sequential(nn.Flatten(), layer)
        optimizer = torch.optim.SGD(linear.parameters(), self.learning_rate, momentum=0.9)
        rng = generator(seed, "linearization", "batches")
        for _ in range(self.surrogate_epochs):
            for rows in torch.randperm(len(images), generator=rng).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(linear(images[rows]), labels[rows]).backward()
                optimizer.step()
        return linear.requires_grad_(False)
