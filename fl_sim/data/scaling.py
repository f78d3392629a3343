"""Images brought to one size: the same way for datasets and for those who protect images."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional

BATCH_SIZE = 1024


def resize(images: UInt8[Tensor, "n c h w"], side: int | None) -> UInt8[Tensor, "n c s t"]:
    """Return images scaled to `side` x `side` pixels, or as they are where it is None.

    Bilinear with antialiasing, rounded to whole levels. Nothing is cut off: an image that is not
    square is squeezed, so that noise made at this size covers the whole image.
    """
    if side is None or images.shape[2:] == (side, side):
        return images
    parts = [_resize(part, side) for part in images.split(BATCH_SIZE)]
    return torch.cat(parts) if parts else images.new_zeros(0, images.shape[1], side, side)


def _resize(images: UInt8[Tensor, "n c h w"], side: int) -> UInt8[Tensor, "n c s t"]:
    size = (side, side)
    small = functional.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)
