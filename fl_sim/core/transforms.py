"""Random crops and flips of whole batches, differentiable in the images."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional


class CropFlipTransform(NamedTuple):
    """A shift and a flip for each image of a batch, drawn once and applied any number of times.

    Attributes:
        padding: Black border on each side before the crop, in pixels.
        top, left: First row and column of each crop in the padded image, from 0 to 2 * padding.
        mirrored: Whether each crop is flipped left to right.
    """

    padding: int
    top: Int64[Tensor, " n"]
    left: Int64[Tensor, " n"]
    mirrored: Bool[Tensor, " n"]

    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the cropped and flipped images, by a single gather."""
        count, channels, height, width = images.shape
        padded = functional.pad(images, [self.padding] * 4)
        across = torch.arange(width).expand(count, width)
        across = torch.where(self.mirrored[:, None], width - 1 - across, across)
        rows = self.top[:, None] + torch.arange(height)
        columns = self.left[:, None] + across
        flat = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        index = flat.view(count, 1, -1).expand(count, channels, -1)
        return padded.flatten(2).gather(2, index).view_as(images)


def draw_crop_flip(
    num_images: int, padding: int, flip: bool, rng: torch.Generator
) -> CropFlipTransform:
    """Return a random shift and flip for each image of a batch.

    Args:
        num_images: Size of the batch.
        padding: Black border before the crop, in pixels; 0 turns cropping off.
        flip: Whether half of the images are flipped left to right.
        rng: Generator to draw from.
    """
    top, left = torch.randint(0, 2 * padding + 1, (2, num_images), generator=rng)
    coins = torch.rand(num_images, generator=rng) < 0.5
    return CropFlipTransform(padding, top, left, coins if flip else torch.zeros_like(coins))
