"""Domains that differ in the angle of their camera."""

import math
from dataclasses import dataclass
from typing import final

import torch

from fl_sim.contracts import DomainTransform, Images
from fl_sim.contracts.domains import draw_strength
from fl_sim.core.errors import require
from fl_sim.core.image_filters import warp_affine


@final
@dataclass(frozen=True)
class Rotation(DomainTransform):
    """Rotation by an angle of the domain's own, to the left or to the right.

    The angle is uniform from half of the largest to all of it. Pixels beyond the border repeat
    those at it.

    Source: rotated digits as domains, Ghifary et al. (2015), section 4.1,
    https://arxiv.org/abs/1508.07680.

    Attributes:
        degrees: Largest angle, in (0, 180].
    """

    degrees: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.degrees <= 180, "degrees", "in (0, 180]", self.degrees)

    def transform(self, images: Images, domain: torch.Generator, each: torch.Generator) -> Images:
        """Return rotated images."""
        left = float(torch.rand((), generator=domain)) < 0.5
        angle = math.radians(self.degrees * draw_strength(domain)) * (1 if left else -1)
        height, width = images.shape[2:]
        sine, cosine = math.sin(angle), math.cos(angle)
        # Positions are in [-1, 1] on both axes, so that sides of unequal length need a factor.
        rows = [[cosine, -sine * height / width, 0.0], [sine * width / height, cosine, 0.0]]
        return warp_affine(images, torch.tensor(rows).expand(len(images), 2, 3))
