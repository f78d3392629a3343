"""JPEG compression."""

import io
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from fl_sim.contracts import Filter
from fl_sim.core.errors import require


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
        if len(images) == 0:
            return images
        return torch.stack([self._compress(image) for image in images])

    def _compress(self, image: UInt8[Tensor, "c h w"]) -> UInt8[Tensor, "c h w"]:
        file = io.BytesIO()
        planes = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(planes[:, :, 0] if len(image) == 1 else planes)
        picture.save(file, "JPEG", quality=self.quality)
        decoded = torch.from_numpy(np.array(Image.open(file)))
        return decoded[None] if len(image) == 1 else decoded.permute(2, 0, 1)
