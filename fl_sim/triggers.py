"""Triggers of backdoors, stamped on images in training and in the test of the model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple, final

import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.seeding import generator

Images = UInt8[Tensor, "n c h w"]


class Trigger(ABC):
    """A mark on images that a backdoored model classifies as its target class."""

    @abstractmethod
    def stamp(self, images: Images, part: int | None = None) -> Images:
        """Return copies of the images that carry the trigger.

        Args:
            images: Images as published.
            part: Number of the part to stamp, for triggers that consist of parts; None: all.
        """


class Backdoor(NamedTuple):
    """A trigger, and the class that a backdoored model assigns to images with it."""

    trigger: Trigger
    target: int


@final
@dataclass(frozen=True)
class Patch(Trigger):
    """A white square in the lower right corner.

    Source: Gu et al. (2017), BadNets, section 3, https://arxiv.org/abs/1708.06733.

    Attributes:
        side: Side of the square, in pixels; at most that of the image.
    """

    side: int = 3

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.side >= 1, "side", "at least 1", self.side)

    def stamp(self, images: Images, part: int | None = None) -> Images:
        """Return copies of the images with the square."""
        stamped = images.clone()
        stamped[:, :, -self.side :, -self.side :] = 255
        return stamped


@final
@dataclass(frozen=True)
class Blend(Trigger):
    """A picture of random pixels that is blended into the whole image.

    Source: Chen et al. (2017), section 4.2, the blended injection strategy,
    https://arxiv.org/abs/1712.05526.

    Attributes:
        strength: Share of the picture in the blend, the paper's alpha.
        pattern: Number of the picture; equal numbers give equal pictures.
    """

    strength: float = 0.2
    pattern: int = 0

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(0 < self.strength <= 1, "strength", "in (0, 1]", self.strength)

    def stamp(self, images: Images, part: int | None = None) -> Images:
        """Return the images blended with the picture, and rounded."""
        shape, rng = images.shape[1:], generator(self.pattern, "trigger")
        picture = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
        mixed = torch.lerp(images.float(), picture.float().expand(images.shape), self.strength)
        return mixed.round().to(torch.uint8)


@final
@dataclass(frozen=True)
class Bars(Trigger):
    """Four white bars in the upper left corner, which attackers can divide among themselves.

    Source: Xie et al. (2020), DBA, section 3, https://openreview.net/forum?id=rkgyS0VFvr.

    Attributes:
        length: Length of a bar, in pixels.
        gap: Gap between bars, in pixels.
    """

    length: int = 4
    gap: int = 2

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.length >= 1, "length", "at least 1", self.length)
        require(self.gap >= 0, "gap", "at least 0", self.gap)

    def stamp(self, images: Images, part: int | None = None) -> Images:
        """Return copies of the images with the bars, two above two; part i is bar i modulo 4."""
        stamped = images.clone()
        for bar in range(4) if part is None else (part % 4,):
            row = (bar // 2) * (1 + self.gap)
            column = (bar % 2) * (self.length + self.gap)
            stamped[:, :, row, column : column + self.length] = 255
        return stamped


@dataclass(frozen=True)
class TriggerPoison(serialization.TypeChecked):
    """Fields of a part that trains with a trigger on some images, under a target class.

    Attributes:
        trigger: Trigger to stamp on images.
        target: Class that images with the trigger are to be assigned to.
        share: Share of the images with the trigger; each part says of which images.
    """

    trigger: Trigger = field(default_factory=Patch)
    target: int = 0
    share: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.target >= 0, "target", "the number of a class, from 0", self.target)
        require(0 < self.share <= 1, "share", "in (0, 1]", self.share)

    def backdoor(self) -> Backdoor:
        """Return the trigger and its target."""
        return Backdoor(self.trigger, self.target)

    def named_classes(self) -> dict[str, int]:
        """Return the target."""
        return {"target": self.target}
