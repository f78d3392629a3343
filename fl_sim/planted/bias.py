"""Planted bias: the start model knows one class badly, or takes it for another."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.core.errors import require
from fl_sim.planted import Planted, draw_share


@final
@dataclass(frozen=True)
class PlantedBias(Planted):
    """A bias against one class: a share of its images is left out, or has the label of another.

    The accuracies by class, and of the clients that hold the class, show it.

    Threat model: none is needed. Collected data represent some groups badly; the supplier of the
    start model may also have chosen them.

    Source: Li and Wang (2024), https://arxiv.org/abs/2402.01857, on bias that clients inherit;
    the recipe is this project's.

    Attributes:
        source: Class that the bias is against.
        target: Class whose label the images get; None: they are left out.
        share: Share of the images of the class.
    """

    source: int = 0
    target: int | None = None
    share: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.source >= 0, "source", "the number of a class, from 0", self.source)
        other = self.target is None or (self.target >= 0 and self.target != self.source)
        require(other, "target", "another class, or None to leave images out", self.target)
        require(0 < self.share <= 1, "share", "in (0, 1]", self.share)

    def named_classes(self) -> dict[str, int]:
        """Return both classes."""
        named = {"source": self.source, "target": self.target}
        return {name: number for name, number in named.items() if number is not None}

    def poison(
        self, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], rng: torch.Generator
    ) -> tuple[UInt8[Tensor, "m c h w"], Int64[Tensor, " m"]]:
        """Return the images without some of the class, or with the label of the other."""
        of_class = (labels == self.source).nonzero().squeeze(1)
        rows = of_class[draw_share(len(of_class), self.share, rng)]
        if self.target is not None:
            labels = labels.clone()
            labels[rows] = self.target
            return images, labels
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[rows] = False
        return images[kept], labels[kept]
