"""Protection plug-ins: bounded noise that an owner adds to images before training."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.contracts.nouns import Images, Labels
from fl_sim.core.errors import require
from fl_sim.core.perturbation import as_pixels, check_radius, quantise
from fl_sim.core.serialization import TypeChecked, with_values


class Protection(TypeChecked, ABC):
    """Noise that a data owner adds to images before they are trained on.

    Noise stays within the radius after rounding, and does not depend on the order of the samples.

    Attributes:
        radius: Bound of the change, in pixels of [0, 1], such as 8/255.
        norm: Norm of the bound; see `fl_sim.core.perturbation.quantise`.
        short: Name on the command line, the acronym of the literature.
        min_classes: Fewest classes, 2 for noise that comes from separating classes.
        min_side: Least height and width of images, in pixels.
        small: Largest numbers of steps of `--small`, by field; empty if there is no such size.
    """

    radius: float
    norm: ClassVar[Literal["linf", "l2"]] = "linf"
    short: ClassVar[str] = ""
    min_classes: ClassVar[int] = 1
    min_side: ClassVar[int] = 1
    small: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_radius(self.radius)

    def check(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        """Raise a `FieldError` if noise cannot be made for such images; called before any work.

        Args:
            image_shape: Channels, height and width.
            num_classes: Number of classes, or the highest label plus one.
        """
        require(min(image_shape) >= 1, "images", "at least one pixel each", image_shape)

    def advice(self, num_images: int) -> str:
        """Return advice on a field that makes noise for few images weak, or an empty string."""
        return ""

    @final
    def make_small(self) -> "Protection":
        """Return the protection with no more steps than `small` has, or itself if it is empty."""
        return with_values(
            self, [(n, min(getattr(self, n), most)) for n, most in self.small.items()]
        )

    def predict_passes(self, num_images: int, num_classes: int) -> int:
        """Return the number of passes that `fl_sim.core.pass_counter` will count at most.

        The time that noise takes is forecast from it; 0, as for noise without a network, if there
        is no forecast.
        """
        return 0

    @abstractmethod
    def noise(self, images: Images, labels: Labels, seed: int) -> Images:
        """Return the change of each pixel, in [0, 1], for samples in order of their ids."""

    @final
    def protect(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Labels,
        sample_ids: Int64[Tensor, " n"],
        seed: int,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the protected images, in the given order.

        Args:
            images: Clean images.
            labels: Labels of the images.
            sample_ids: Stable ids; noise belongs to an id, not to a position.
            seed: Seed of the noise; equal seeds give equal pixels.

        Raises:
            FieldError: If noise cannot be made for such images.
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
