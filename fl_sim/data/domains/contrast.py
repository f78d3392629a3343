"""Domains that differ in the contrast of their images."""

from dataclasses import dataclass
from typing import final

import torch

from fl_sim.contracts import DomainTransform, Images
from fl_sim.contracts.domains import draw_strength
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class Contrast(DomainTransform):
    """Lower contrast, towards a grey of the domain's own.

    The share of the contrast that is lost is uniform from half of the largest to all of it, and
    the grey is uniform over [0, 1].

    Source: this project.

    Attributes:
        strength: Largest share of the contrast that is lost, in (0, 1).
    """

    strength: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.strength < 1, "strength", "in (0, 1)", self.strength)

    def transform(self, images: Images, domain: torch.Generator, each: torch.Generator) -> Images:
        """Return images mixed with the grey."""
        grey = float(torch.rand((), generator=domain))
        share = self.strength * draw_strength(domain)
        return (1 - share) * images + share * grey
