"""Domains that differ in the colour of their light."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fl_sim.contracts import DomainTransform, Images
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class ColourCast(DomainTransform):
    """Light of a colour of the domain's own; images need three channels.

    Each channel is multiplied by a factor from 1 - strength to 1, by a hue that is uniform over
    the colour circle. White becomes that colour, black stays black.

    Source: this project; coloured digits as domains are those of Arjovsky et al. (2019), section
    5.2, https://arxiv.org/abs/1907.02893.

    Attributes:
        strength: Share of the weakest channel that is taken away, in (0, 1].
    """

    min_channels: ClassVar[int] = 3

    strength: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.strength <= 1, "strength", "in (0, 1]", self.strength)

    def transform(self, images: Images, domain: torch.Generator, each: torch.Generator) -> Images:
        """Return images in the light of the domain."""
        hue = 2 * math.pi * float(torch.rand((), generator=domain))
        thirds = hue + 2 * math.pi / 3 * torch.arange(3)
        colour = (1 + thirds.cos()) / 2
        factors = 1 - self.strength * (colour.amax() - colour) / (colour.amax() - colour.amin())
        return images * factors.view(1, 3, 1, 1)
