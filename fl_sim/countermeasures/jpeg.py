"""JPEG compression."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts import Filter
from fl_sim.core.errors import require
from fl_sim.core.image_filters import compress_jpeg


@final
@dataclass(frozen=True)
class Jpeg(Filter):
    """Compression of images as JPEG files, which removes noise of high frequency.

    Source: Liu et al. (2023), Image Shortcut Squeezing, section 3,
    https://arxiv.org/abs/2301.13838, which uses quality 10.

    Attributes:
        quality: Quality of the compression, from 1 to 100.
    """

    quality: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.quality <= 100, "quality", "from 1 to 100", self.quality)

    def filter(
        self, images: UInt8[Tensor, "n c h w"], labels: Tensor, rng: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images after compression and decompression."""
        return compress_jpeg(images, self.quality)
