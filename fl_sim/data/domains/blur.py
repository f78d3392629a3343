"""Domains that differ in the sharpness of their images."""

from dataclasses import dataclass
from typing import final

import torch

from fl_sim.contracts import DomainTransform, Images
from fl_sim.contracts.corruptions import scale_length
from fl_sim.contracts.domains import draw_strength
from fl_sim.core.errors import require_above
from fl_sim.core.image_filters import gaussian_blur


@final
@dataclass(frozen=True)
class Blur(DomainTransform):
    """A lens that is out of focus: Gaussian blur of a width of the domain's own.

    The width is uniform from half of the largest to all of it.

    Source: this project.

    Attributes:
        sigma: Largest standard deviation, in pixels of images of 32 x 32; it scales with the side.
    """

    sigma: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "sigma")

    def transform(self, images: Images, domain: torch.Generator, each: torch.Generator) -> Images:
        """Return blurred images."""
        return gaussian_blur(images, scale_length(draw_strength(domain) * self.sigma, images))
