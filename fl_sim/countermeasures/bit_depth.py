"""Fewer levels a pixel."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import Filter
from fl_sim.errors import require


@final
@dataclass(frozen=True)
class BitDepth(Filter):
    """Pixels are rounded to the nearest of a few evenly spaced levels.

    Source: Xu et al. (2018), Feature Squeezing, section II-C, https://arxiv.org/abs/1704.01155.

    Attributes:
        bits: a pixel keeps, 1 to 8; 8 changes nothing.
    """

    bits: int = 2

    def __post_init__(self) -> None:
        description.check_types(self)
        require(1 <= self.bits <= 8, "bits", "from 1 to 8", self.bits)

    def filtered(
        self, images: UInt8[Tensor, "n c h w"], labels: Tensor, rng: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the rounded images."""
        top = 2**self.bits - 1
        levels: Tensor = ((torch.arange(256) / 255 * top).round() / top * 255).round()
        return levels.to(torch.uint8)[images.long()]
