"""Robust error-minimising noise, optimised against an adversary."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fl_sim.contracts import Images
from fl_sim.core.perturbation import Loss
from fl_sim.protections._shared.robust import RobustNoise


@final
@dataclass(frozen=True)
class RobustErrorMinimizing(RobustNoise):
    """Error-minimising noise that withstands adversarial training (REM).

    A min-min-max problem of surrogate, noise and adversary: each gradient of the noise is taken
    at the worst point near the image, which makes this the most expensive protection.

    Source: Fu et al. (2022), Robust Unlearnable Examples, algorithm 1,
    https://arxiv.org/abs/2203.14533. The defaults are those of its CIFAR-10 experiments, with
    this project's small network as the surrogate.

    Attributes:
        radius: Largest change of a pixel, in [0, 1], such as 16/255.
        adversary_radius: Radius of the attack on noise and surrogate, in [0, 1]; None for half of
            the radius.
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

    short: ClassVar[str] = "rem"

    @property
    def disturbance_passes(self) -> int:
        """Number of passes that a disturbance takes, per image: those of the attack."""
        return self.attack_passes

    def make_disturbance(self, loss: Loss, images: Images, rng: torch.Generator) -> Images:
        """Return the attack's change, which is a constant in the noise's gradient."""
        return self.attack(loss, images, rng)
