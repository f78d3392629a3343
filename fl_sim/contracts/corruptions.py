"""Corruption plug-ins: changes of test images that a model in use meets."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts.nouns import Images
from fl_sim.core.errors import require
from fl_sim.core.serialization import TypeChecked

BATCH = 500  # images that are changed together; fixed, since draws depend on it
REFERENCE_SIDE = 32  # pixels; lengths of corruptions are given for images of this side


@dataclass(frozen=True)
class Corruption(TypeChecked, ABC):
    """A change of images that leaves their class recognisable, in five severities.

    Attributes:
        levels: Strength at each severity, in a unit of the corruption's own.
        severity: Severity, from 1 (light) to 5 (heavy).
    """

    levels: ClassVar[tuple[float, float, float, float, float]]

    severity: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.severity <= 5, "severity", "from 1 to 5", self.severity)

    @classmethod
    def name(cls) -> str:
        """Return the name in results: that of the class, in lower case with underscores."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @property
    def level(self) -> float:
        """Strength at the severity."""
        return self.levels[self.severity - 1]

    @abstractmethod
    def corrupt(self, images: Images, rng: torch.Generator) -> Images:
        """Return corrupted copies of a batch of images in [0, 1]; they may leave [0, 1]."""

    def apply(
        self, images: UInt8[Tensor, "n c h w"], rng: torch.Generator
    ) -> UInt8[Tensor, "n c h w"]:
        """Return corrupted copies of stored images, rounded to 8 bits."""
        if not len(images):
            return images
        corrupted = [
            (self.corrupt(batch.float() / 255, rng).clamp(0, 1) * 255).round().to(torch.uint8)
            for batch in images.split(BATCH)
        ]
        return torch.cat(corrupted)


def scale_length(length: float, images: Images) -> float:
    """Return a length, given in pixels of images of 32 x 32, in pixels of these images."""
    return length * min(images.shape[2:]) / REFERENCE_SIDE
