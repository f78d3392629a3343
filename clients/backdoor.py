"""Backdoor: images with a trigger are assigned to a target class."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from clients._shared.poisoning import change_inputs, select_share
from clients._shared.wrapping import Wrapper
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Shard
from fl_sim.triggers import TriggerPoison


@final
@dataclass(frozen=True)
class BackdoorClient(TriggerPoison, Wrapper):
    """Train on a shard in which some images carry a trigger and the target label.

    `Patch()` is BadNets, `Blend()` the blended attack, `Bars()` with `shared=True` the distributed
    one (DBA), in which each attacker stamps one bar and the test images have all four. The metric
    `attack_success` is the share of triggered test images classified as the target class.

    Threat model: the attacker controls its own data and nothing else; it knows its own number, and
    which part of the trigger is its own.

    Source: Gu et al. (2017), BadNets, https://arxiv.org/abs/1708.06733; distributed, Xie et al.
    (2020), DBA, https://openreview.net/forum?id=rkgyS0VFvr.

    Attributes:
        trigger: Trigger to stamp on images.
        target: Class that images with the trigger are to be assigned to.
        share: Share of the shard with the trigger, the same images in each round.
        shared: Whether each attacker stamps only its own part of the trigger.
        honest: Training on the poisoned shard.
    """

    action: ClassVar[str] = "plant a backdoor"

    share: float = 0.3
    shared: bool = False
    honest: Client = field(default_factory=SgdClient)

    def change_images(
        self, images: UInt8[Tensor, "n c h w"], shard: Shard
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images, with the trigger or the attacker's part of it on some of them."""
        changed, rows = images.clone(), self._select_rows(shard)
        changed[rows] = self.trigger.stamp(changed[rows], shard.client if self.shared else None)
        return changed

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place on the shard with some of its images stamped and relabelled."""
        labels = shard.labels.clone()
        labels[self._select_rows(shard)] = self.target
        return self.honest.train(model, replace(change_inputs(self, shard), labels=labels), rng)

    def _select_rows(self, shard: Shard) -> Int64[Tensor, " k"]:
        return select_share(shard, self.share, "backdoor")
