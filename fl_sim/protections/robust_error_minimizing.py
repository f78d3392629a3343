"""Robust error-minimising noise: made against an attack inside."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.core.perturbation import Loss
from fl_sim.protections._shared.robust import RobustNoise


@final
@dataclass(frozen=True)
class RobustErrorMinimizing(RobustNoise):
    """Error-minimising noise that withstands adversarial training (REM).

    Noise, adversary and surrogate play min-min-max: each gradient of the noise is taken at the
    worst point near the image, which makes it the most expensive protection here.

    Source: Fu et al. (2022), Robust Unlearnable Examples, algorithm 1,
    https://arxiv.org/abs/2203.14533. The defaults are those of its CIFAR-10 experiments, with
    this project's small network as the surrogate.

    Attributes:
        radius: of the noise, in pixels of [0, 1], such as 16 / 255.
        adversary_radius: of the attack, on noise and surrogate alike; None: half of the radius.
        surrogate: network that is trained along.
        surrogate_steps: batches, each of fresh noise and one step of the surrogate.
        batch_size, learning_rate: of the surrogate (SGD, momentum 0.9, weight decay 5e-4).
        noise_steps: sign steps of a fifth of the radius.
        transforms: random crops and flips over which a gradient is averaged.
        padding, flip: of those transforms; 0 and False leave images as they are.
        adversary_steps: steps of the attack, of a fifth of its radius.
        clip_gradient: norm to which the surrogate's gradients are clipped; None: not at all, as
            in the authors' code. Where gradients are small, both are the same.
    """

    short: ClassVar[str] = "rem"

    def make_disturbance(
        self, loss: Loss, images: Float[Tensor, "n c h w"], rng: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Return the attack's change; the noise's gradient treats it as a constant."""
        return self.attack(loss, images, rng)
