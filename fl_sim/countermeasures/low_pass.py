"""Low-pass filters of 3 x 3 pixels."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Filter

KERNELS = {"mean": (1 / 3, 1 / 3, 1 / 3), "gaussian": (1 / 4, 1 / 2, 1 / 4)}


@final
@dataclass(frozen=True)
class LowPass(Filter):
    """Mean, median or Gaussian mean of each pixel and its eight neighbours.

    Source: Liu et al. (2024), Stable Unlearnable Example, section on low-pass filters,
    https://arxiv.org/abs/2311.13091. Borders are treated as in OpenCV: mirrored, and repeated for
    the median and for sides of one pixel.

    Attributes:
        kind: `mean`, `median`, or `gaussian` (weights 1, 2, 1 in both directions).
    """

    kind: Literal["mean", "median", "gaussian"] = "mean"

    def filter(
        self, images: UInt8[Tensor, "n c h w"], labels: Tensor, rng: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the smoothed images, rounded to whole levels."""
        parts = [self._smooth(part) for part in images.split(1024)]
        return torch.cat(parts) if parts else images

    def _smooth(self, images: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        count, channels, height, width = images.shape
        flat = images.float().view(count * channels, 1, height, width)
        if self.kind == "median":
            padded = functional.pad(flat, (1, 1, 1, 1), mode="replicate")
            smooth = functional.unfold(padded, 3).median(1).values
        else:
            padded = _pad_mirrored(flat)
            line = torch.tensor(KERNELS[self.kind])
            smooth = functional.conv2d(padded, (line[:, None] * line).view(1, 1, 3, 3))
        return smooth.view(images.shape).round().to(torch.uint8)


def _pad_mirrored(images: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 t s"]:
    """Return images with a border of one pixel, mirrored at the edge or, if too small, repeated."""
    height, width = images.shape[2:]
    across = functional.pad(images, (1, 1, 0, 0), mode="reflect" if width > 1 else "replicate")
    return functional.pad(across, (0, 0, 1, 1), mode="reflect" if height > 1 else "replicate")
