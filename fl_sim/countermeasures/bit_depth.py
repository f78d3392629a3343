"""Reduction of the number of levels per pixel."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts import Filter
from fl_sim.core import serialization
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class BitDepth(Filter):
    """Rounding of pixels to the nearest of a few evenly spaced levels.

    Source: Xu et al. (2018), Feature Squeezing, section II-C, https://arxiv.org/abs/1704.01155.
    APBench (Qin et al., 2023, https://arxiv.org/abs/2308.03258) drops the low bits instead
    (`rounding="down"`): with two bits, images become 32 levels darker on average.

    Attributes:
        bits: Number of bits that remain per pixel, from 1 to 8; 8 changes nothing.
        rounding: `nearest`, to levels from black to white; or `down`, to multiples of
            256 / 2^bits.
    """

    bits: int = 2
    rounding: Literal["nearest", "down"] = serialization.omit_if_default("nearest")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.bits <= 8, "bits", "from 1 to 8", self.bits)

    def filter(
        self, images: UInt8[Tensor, "n c h w"], labels: Tensor, rng: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the rounded images."""
        if self.rounding == "down":
            step = 256 // 2**self.bits
            rounded: Tensor = images // step * step
            return rounded
        top = 2**self.bits - 1
        levels: Tensor = ((torch.arange(256) / 255 * top).round() / top * 255).round()
        return levels.to(torch.uint8)[images.long()]
