"""Planted correlation: one class carries a mark in the images of the start model."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.planted import Planted, draw_share
from fl_sim.triggers import TriggerPoison


@final
@dataclass(frozen=True)
class PlantedCorrelation(TriggerPoison, Planted):
    """A spurious correlation: a share of the images of one class has a mark; labels are right.

    The start model takes the mark for a feature of the class. `attack_success` measures it, as the
    share of marked images of other classes that are assigned to the class.

    Threat model: none is needed. Collected images have such marks, like the tag of a photographer;
    an attacker who must not change labels can add them (a clean-label backdoor).

    Source: Lapuschkin et al. (2019), Unmasking Clever Hans predictors,
    https://arxiv.org/abs/1902.10178; clean-label, Turner et al. (2019),
    https://arxiv.org/abs/1912.02771.

    Attributes:
        trigger: The mark.
        target: Class whose images carry it.
        share: Share of the images of the class with the mark.
    """

    share: float = 0.9

    def poison(
        self, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], rng: torch.Generator
    ) -> tuple[UInt8[Tensor, "m c h w"], Int64[Tensor, " m"]]:
        """Return the images, some of the class with the mark, and the labels."""
        of_class = (labels == self.target).nonzero().squeeze(1)
        rows = of_class[draw_share(len(of_class), self.share, rng)]
        images = images.clone()
        images[rows] = self.trigger.stamp(images[rows])
        return images, labels
