"""Corruption by weather and light: fog, brightness and contrast."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fl_sim.contracts import Images
from fl_sim.contracts.corruptions import Corruption
from fl_sim.core.plasma import draw_plasma


@final
@dataclass(frozen=True)
class Fog(Corruption):
    """A veil of random thickness, from a fractal; each image has one of its own.

    Levels are amounts of fog, relative to a white pixel.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (0.2, 0.4, 0.7, 1.0, 1.5)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return images with fog, scaled back to their brightest value."""
        brightest = images.amax((1, 2, 3), keepdim=True)
        veiled = images + self.level * draw_plasma(images[:, :1], rng)
        return veiled * brightest / (brightest + self.level)


@final
@dataclass(frozen=True)
class Brightness(Corruption):
    """More light: the value of each pixel is raised, and its hue kept.

    Levels are added to the value, the largest channel of a pixel in [0, 1].

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (0.1, 0.2, 0.3, 0.4, 0.5)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return brighter images; black pixels become grey."""
        value = images.amax(1, keepdim=True)
        brighter = (value + self.level).clamp(max=1)
        return torch.where(value > 0, images * brighter / value.clamp(min=1e-6), brighter)


@final
@dataclass(frozen=True)
class Contrast(Corruption):
    """Less contrast: pixels move towards the mean of their image and channel.

    Levels are the shares of the contrast that remain.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (0.7, 0.5, 0.4, 0.3, 0.2)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return images of lower contrast."""
        means = images.mean((2, 3), keepdim=True)
        return means + self.level * (images - means)
