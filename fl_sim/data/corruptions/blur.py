"""Corruption by blur. Lengths are in pixels of images of 32 x 32, and scale with the side."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Images
from fl_sim.contracts.corruptions import Corruption, scale_length
from fl_sim.core.image_filters import average_views, filter_images

NUM_VIEWS = 9  # positions during an exposure
STEEPEST = math.pi / 4  # angle of a motion against the horizontal, to either side


@final
@dataclass(frozen=True)
class DefocusBlur(Corruption):
    """Blur by a disc, as out of focus.

    Levels are radii of the disc.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (0.7, 1.0, 1.5, 2.0, 2.8)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return blurred images."""
        return filter_images(images, make_disc(scale_length(self.level, images)))


def make_disc(radius: float) -> Float[Tensor, "a a"]:
    """Return the kernel of a disc, whose border covers pixels in part, with sum 1."""
    reach = math.ceil(radius)
    offsets = torch.arange(-reach, reach + 1).float()
    distances = (offsets[:, None].square() + offsets.square()).sqrt()
    covered = (radius + 0.5 - distances).clamp(0, 1)
    return covered / covered.sum()


@final
@dataclass(frozen=True)
class MotionBlur(Corruption):
    """Blur along a line, as of a camera that moves; each image has a direction of its own.

    Levels are lengths of the line. Directions are uniform within 45 degrees of the horizontal.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (2.0, 3.0, 4.5, 6.0, 8.0)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return the mean of the images at equal steps along the line."""
        count, _, height, width = images.shape
        angles = STEEPEST * (2 * torch.rand(count, generator=rng) - 1)
        length = scale_length(self.level, images)
        across, down = 2 * length / width * angles.cos(), 2 * length / height * angles.sin()
        matrices = torch.eye(2, 3).repeat(count, 1, 1)
        views = []
        for place in torch.linspace(-0.5, 0.5, NUM_VIEWS):
            view = matrices.clone()
            view[:, 0, 2], view[:, 1, 2] = place * across, place * down
            views.append(view)
        return average_views(images, views)


@final
@dataclass(frozen=True)
class ZoomBlur(Corruption):
    """Blur towards the border, as of a camera that approaches fast.

    Levels are the largest magnifications.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (1.06, 1.12, 1.2, 1.32, 1.5)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return the mean of the images at equal steps from no magnification to the largest."""
        identity = torch.eye(2, 3).expand(len(images), 2, 3)
        factors = torch.linspace(1, self.level, NUM_VIEWS)
        return average_views(images, [identity / factor for factor in factors])
