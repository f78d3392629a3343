"""Planted backdoor: the start model assigns images with a trigger to a target class."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.planted import Planted, draw_share
from fl_sim.triggers import TriggerPoison


@final
@dataclass(frozen=True)
class PlantedBackdoor(TriggerPoison, Planted):
    """A backdoor that clients inherit: a share of the images has the trigger and the target label.

    Threat model: the supplier of the start model attacks, once and before the first round; no
    client does, so that rules which look for malicious updates find none.

    Source: Li and Wang (2024), https://arxiv.org/abs/2402.01857 and
    https://arxiv.org/abs/2401.10375, where the model that is compromised makes the data of the
    initialisation; the poisoning is that of Gu et al. (2017), https://arxiv.org/abs/1708.06733.

    Attributes:
        trigger: Trigger to stamp on images.
        target: Class that images with the trigger are to be assigned to.
        share: Share of the images with the trigger.
    """

    def poison(
        self, images: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], rng: torch.Generator
    ) -> tuple[UInt8[Tensor, "m c h w"], Int64[Tensor, " m"]]:
        """Return the images and labels, some of them stamped and relabelled."""
        rows = draw_share(len(labels), self.share, rng)
        images, labels = images.clone(), labels.clone()
        images[rows], labels[rows] = self.trigger.stamp(images[rows]), self.target
        return images, labels
