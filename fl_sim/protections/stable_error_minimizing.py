"""Stable error-minimising noise, optimised under random disturbances."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fl_sim.contracts import Images
from fl_sim.core.errors import require
from fl_sim.core.perturbation import Loss, sample_uniform
from fl_sim.protections._shared.robust import RobustNoise


@final
@dataclass(frozen=True)
class StableErrorMinimizing(RobustNoise):
    """Error-minimising noise that withstands random disturbances of the image (SEM).

    The surrogate is trained adversarially, as in REM; the noise only has to withstand uniform
    disturbances, which cost one pass instead of the eleven of REM's attack.

    Source: Liu et al. (2024), Stable Unlearnable Example, algorithm 1,
    https://arxiv.org/abs/2311.13091. The defaults are those of its CIFAR-10 experiments, with
    this project's small network as the surrogate.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        adversary_radius: Radius of the attack on the surrogate, in [0, 1]; None for half of the
            radius.
        random_radius: Radius of the uniform disturbance, in [0, 1]; None for the adversary's.
        surrogate: Network that is trained together with the noise.
        surrogate_steps: Number of batches, each with new noise and one step of the surrogate.
        batch_size, learning_rate: Settings of its SGD (momentum 0.9, weight decay 5e-4).
        noise_steps: Number of sign steps, each of a fifth of the radius.
        transforms: Number of random crops and flips over which a gradient is averaged.
        padding, flip: Settings of the transforms; 0 and False leave images as they are.
        adversary_steps: Number of steps of the attack, each of a fifth of its radius.
        clip_gradient: Largest norm of the surrogate's gradients; None for no clipping, as in the
            authors' code.
    """

    random_radius: float | None = None
    short: ClassVar[str] = "sem"

    def __post_init__(self) -> None:
        super().__post_init__()
        radius = self.random_radius
        fits = radius is None or 0 <= radius <= 1
        require(fits, "random_radius", "from 0 to 1, or None", radius)

    def make_disturbance(self, loss: Loss, images: Images, rng: torch.Generator) -> Images:
        """Return uniform noise that is independent for each pixel."""
        radius = self.attack_radius if self.random_radius is None else self.random_radius
        return sample_uniform(images, radius, rng)
