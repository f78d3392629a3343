"""Conversion to grey images."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts import Filter

LUMA = (0.299, 0.587, 0.114)


@final
@dataclass(frozen=True)
class Grey(Filter):
    """Replacement of colours by their brightness, with the number of channels unchanged.

    Removes noise that consists of colours. Grey images are left as they are.

    Source: Liu et al. (2023), Image Shortcut Squeezing, section 3,
    https://arxiv.org/abs/2301.13838; weights of ITU-R BT.601.
    """

    def filter(
        self, images: UInt8[Tensor, "n c h w"], labels: Tensor, rng: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        """Return images with the brightness in every channel."""
        if images.shape[1] != 3:
            return images
        luma = torch.tensor(LUMA).view(1, 3, 1, 1)
        brightness = (images.float() * luma).sum(1, keepdim=True).round()
        return brightness.to(torch.uint8).expand_as(images).contiguous()
