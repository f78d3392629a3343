"""The owner's plug-in: what it does to its images before anybody trains on them."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from fl_sim.core.errors import require
from fl_sim.core.perturbation import as_pixels, quantise


class Protection(ABC):
    """What a data owner does to images before anybody trains on them.

    Guarantee, by construction: shape, dtype and labels are kept; the change of every pixel
    stays within the ball after rounding to 8 bits; the result does not depend on the order
    of the samples. `short` is the name on the command line, the initials of the literature.
    `min_classes` is how many classes there have to be: 2 where the noise comes from telling
    classes apart. `min_side` is the least height and width of images.
    """

    radius: float
    norm: ClassVar[Literal["linf", "l2"]] = "linf"
    short: ClassVar[str] = ""
    min_classes: ClassVar[int] = 1
    min_side: ClassVar[int] = 1

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Raise a `FieldError` for images that noise cannot be made for; called before any work.

        Args:
            image_shape: channels, height and width.
            num_classes: number of classes, or the highest label and one.
        """
        require(min(image_shape) >= 1, "images", "at least one pixel each", image_shape)

    def advice(self, num_images: int) -> str:
        """Return which field to change so that noise for so few images is not weak, or nothing."""
        return ""

    @abstractmethod
    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Return the change of every pixel, in pixels of [0, 1], for samples in id order."""

    @final
    def protect(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
        sample_ids: Int64[Tensor, " n"],
        seed: int,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the protected images, in the order given.

        Args:
            images: clean images.
            labels: their labels, which are kept.
            sample_ids: stable ids; noise belongs to an id, not to a position.
            seed: same seed, same pixels.

        Raises:
            FieldError: for images that noise cannot be made for.
        """
        if len(images) == 0:
            return images.clone()
        channels, height, width = images.shape[1:]
        self.check((channels, height, width), int(labels.max()) + 1)
        order = sample_ids.argsort()
        pixels = as_pixels(images[order])
        noise = self.noise(pixels, labels[order], seed)
        protected = torch.empty_like(images)
        protected[order] = quantise(images[order], noise, self.radius, self.norm)
        return protected
