"""Domains that differ in what is behind the object."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import DomainTransform, Images
from fl_sim.core.errors import require
from fl_sim.core.plasma import draw_plasma


@final
@dataclass(frozen=True)
class Background(DomainTransform):
    """A texture in place of the background, in colours of the domain's own.

    The background is what resembles the colour of the border of an image (its median over the
    border): it fits images of one object on plain ground, such as digits, garments or icons, and
    changes little of a photograph. Textures are fractals, rough as photographs of nature are, one
    for each image, between two colours that all images of the domain share. Of grey images they
    are grey.

    Source: this project; digits on photographs are those of Ganin et al. (2016), MNIST-M, section
    5.2.2, https://arxiv.org/abs/1505.07818.

    Attributes:
        strength: Share of the background that the texture replaces, in (0, 1].
        tolerance: Difference from the border's colour at which a pixel is part of the object, in
            pixels of [0, 1].
    """

    strength: float = 0.8
    tolerance: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.strength <= 1, "strength", "in (0, 1]", self.strength)
        require(0 < self.tolerance <= 1, "tolerance", "in (0, 1]", self.tolerance)

    def transform(self, images: Images, domain: torch.Generator, each: torch.Generator) -> Images:
        """Return the images on textures."""
        ends = torch.rand(2, 1, images.shape[1], 1, 1, generator=domain)
        texture = torch.lerp(ends[0], ends[1], draw_plasma(images[:, :1], each))
        share = self.strength * find_background(images, self.tolerance)
        return (1 - share) * images + share * texture


def find_background(images: Images, tolerance: float) -> Float[Tensor, "n 1 h w"]:
    """Return the weight of each pixel as background, from 1 at the border's median colour to 0.

    Args:
        images: Images, in [0, 1].
        tolerance: Difference in any channel from which on a pixel is not background.
    """
    sides = [images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]]
    colour = torch.cat(sides, 2).median(2).values
    apart = (images - colour[:, :, None, None]).abs().amax(1, keepdim=True)
    return (1 - apart / tolerance).clamp(min=0)
