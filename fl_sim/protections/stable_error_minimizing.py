"""Stable error-minimising noise: random disturbances where REM runs an attack."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.core.errors import require
from fl_sim.core.perturbation import Loss, sample_uniform
from fl_sim.protections._shared.robust import RobustNoise


@final
@dataclass(frozen=True)
class StableErrorMinimizing(RobustNoise):
    """Error-minimising noise that withstands random disturbances of the image (SEM).

    The surrogate is trained adversarially, as in REM; the noise only has to withstand uniform
    disturbances, which cost one pass where REM's attack costs eleven.

    Source: Liu et al. (2024), Stable Unlearnable Example, algorithm 1,
    https://arxiv.org/abs/2311.13091. The defaults are those of its CIFAR-10 experiments, with
    this project's small network as the surrogate.

    Attributes:
        radius: of the noise, in pixels of [0, 1], such as 16 / 255.
        adversary_radius: of the attack on the surrogate; None: half of the radius.
        random_radius: of the uniform disturbance; None: that of the adversary.
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

    random_radius: float | None = None
    short: ClassVar[str] = "sem"

    def __post_init__(self) -> None:
        super().__post_init__()
        own = self.random_radius
        require(own is None or 0 <= own <= 1, "random_radius", "from 0 to 1, or None", own)

    def make_disturbance(
        self, loss: Loss, images: Float[Tensor, "n c h w"], rng: torch.Generator
    ) -> Float[Tensor, "n c h w"]:
        """Draw uniformly, pixel by pixel."""
        radius = self.attack_radius if self.random_radius is None else self.random_radius
        return sample_uniform(images, radius, rng)
