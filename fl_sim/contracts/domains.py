"""Domain transform plug-ins: changes of all images of a client, as its own camera would make."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts.nouns import Images
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import TypeChecked

BATCH = 500  # images that are changed together; fixed, since draws depend on it


class DomainTransform(TypeChecked, ABC):
    """A change of images that differs between domains and leaves their class recognisable.

    Attributes:
        min_channels: Fewest channels of images that it can change.
    """

    min_channels: ClassVar[int] = 1

    @abstractmethod
    def transform(self, images: Images, domain: torch.Generator, each: torch.Generator) -> Images:
        """Return changed copies of images in [0, 1]; they may leave [0, 1].

        Args:
            images: Images of one domain.
            domain: Generator of what all images of the domain share, such as an angle.
            each: Generator of what differs between images of a domain.
        """

    def apply(
        self, images: UInt8[Tensor, "n c h w"], domain: int, seed: int
    ) -> UInt8[Tensor, "n c h w"]:
        """Return stored images as the domain of this number has them, rounded to 8 bits."""
        changed = [images[:0]]
        for number, batch in enumerate(images.split(BATCH) if len(images) else ()):
            shared = generator(seed, "domain", domain)
            each = generator(seed, "domain", domain, "images", number)
            pixels = self.transform(batch.float() / 255, shared, each).clamp(0, 1)
            changed.append((pixels * 255).round().to(torch.uint8))
        return torch.cat(changed)


def draw_strength(rng: torch.Generator) -> float:
    """Return a uniform number from 1/2 to 1, by which domains of one kind differ."""
    return 0.5 + 0.5 * float(torch.rand((), generator=rng))
