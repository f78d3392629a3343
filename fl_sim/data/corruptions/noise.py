"""Corruption by noise of single pixels."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fl_sim.contracts import Images
from fl_sim.contracts.corruptions import Corruption


@final
@dataclass(frozen=True)
class GaussianNoise(Corruption):
    """Gaussian noise on each value, as in low light.

    Levels are standard deviations, in pixels of [0, 1].

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (0.04, 0.08, 0.12, 0.18, 0.26)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return images with noise."""
        return images + self.level * torch.randn(images.shape, generator=rng)


@final
@dataclass(frozen=True)
class ShotNoise(Corruption):
    """Poisson noise, as from the discrete nature of light.

    Levels are the numbers of photons that a white pixel stands for.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (200.0, 100.0, 50.0, 25.0, 12.0)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return images of which each value is a count of photons over that of white."""
        return torch.poisson(images * self.level, generator=rng) / self.level


@final
@dataclass(frozen=True)
class ImpulseNoise(Corruption):
    """Black and white values at random places, as from bit errors (salt and pepper).

    Levels are the shares of values that are replaced.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (0.01, 0.03, 0.06, 0.1, 0.17)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return images with as many black values as white ones added on average."""
        drawn = torch.rand(images.shape, generator=rng)
        salted = torch.where(drawn < self.level / 2, torch.ones_like(images), images)
        return torch.where(drawn > 1 - self.level / 2, torch.zeros_like(images), salted)
