"""Corruption by processing: elastic warps, coarse pixels and compression."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch.nn import functional

from fl_sim.contracts import Images
from fl_sim.contracts.corruptions import Corruption, scale_length
from fl_sim.core.image_filters import compress_jpeg, gaussian_blur, warp

SMOOTHNESS = 3.0  # standard deviation of the Gaussian that smooths displacements, in pixels of 32


@final
@dataclass(frozen=True)
class ElasticTransform(Corruption):
    """Smooth random displacements; each image has its own.

    Levels are standard deviations of a displacement, in pixels of images of 32 x 32.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261; Simard
    et al. (2003), https://doi.org/10.1109/ICDAR.2003.1227801.
    """

    levels: ClassVar = (0.4, 0.7, 1.0, 1.4, 1.9)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return warped images."""
        count, _, height, width = images.shape
        drawn = torch.randn(count, 2, height, width, generator=rng)
        smooth = gaussian_blur(drawn, scale_length(SMOOTHNESS, images))
        smooth = smooth / smooth.std((2, 3), keepdim=True)
        if not bool(smooth.isfinite().all()):
            raise ValueError("displacements do not vary over an image this small")
        pixels = scale_length(self.level, images) * smooth
        relative = pixels * torch.tensor([2 / width, 2 / height]).view(1, 2, 1, 1)
        grid = functional.affine_grid(torch.eye(2, 3)[None], [1, 1, height, width], False)
        return warp(images, grid + relative.permute(0, 2, 3, 1))


@final
@dataclass(frozen=True)
class Pixelate(Corruption):
    """Coarser pixels, as of a small image that is enlarged.

    Levels are the shares of the side that remain.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (0.8, 0.65, 0.5, 0.4, 0.3)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return images averaged over coarse pixels."""
        height, width = images.shape[2:]
        small = [max(1, round(self.level * side)) for side in (height, width)]
        reduced = functional.interpolate(images, size=small, mode="area")
        return functional.interpolate(reduced, size=(height, width), mode="nearest-exact")


@final
@dataclass(frozen=True)
class JpegCompression(Corruption):
    """Compression as a JPEG file.

    Levels are qualities, from 1 to 100.

    Source: Hendrycks and Dietterich (2019), appendix B, https://arxiv.org/abs/1903.12261.
    """

    levels: ClassVar = (60.0, 40.0, 25.0, 15.0, 8.0)

    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return images after compression and decompression."""
        stored = (images * 255).round().to(torch.uint8)
        return compress_jpeg(stored, int(self.level)).float() / 255
