"""Scales images to one size, for datasets and for `fl-sim protect` alike."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

BATCH_SIZE = 1024


def resize(images: UInt8[Tensor, "n c h w"], side: int | None) -> UInt8[Tensor, "n c s t"]:
    """Return images scaled to `side` x `side` pixels, or unchanged if `side` is None.

    Scaling is bilinear with antialiasing and rounds to whole levels. An image that is not square
    is squeezed rather than cropped, so that noise made at this size covers all of it.
    """
    if side is None or images.shape[2:] == (side, side):
        return images
    parts = [_resize(part, side) for part in images.split(BATCH_SIZE)]
    return torch.cat(parts) if parts else images.new_zeros(0, images.shape[1], side, side)


def _resize(images: UInt8[Tensor, "n c h w"], side: int) -> UInt8[Tensor, "n c s t"]:
    size = (side, side)
    small = functional.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)
