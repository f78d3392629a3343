"""Random crops and flips."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Augmentation, Images
from fl_sim.core.errors import require_at_least
from fl_sim.core.transforms import draw_crop_flip


@final
@dataclass(frozen=True)
class CropFlip(Augmentation):
    """Random shifts by a few pixels, and flips of half of the images.

    Source: the usual definition; padding as in He et al. (2016), section 4.2,
    https://arxiv.org/abs/1512.03385.

    Attributes:
        padding: Largest shift, in pixels; the uncovered border is black.
        flip: Whether half of the images are also mirrored left to right.
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "padding")

    def augment(
        self, images: Images, targets: Float[Tensor, "n y"], rng: torch.Generator
    ) -> tuple[Images, Float[Tensor, "n y"]]:
        """Return the batch with each image cropped and flipped independently."""
        return draw_crop_flip(len(images), self.padding, self.flip, rng)(images), targets
