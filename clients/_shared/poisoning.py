"""Helpers for poisoning a shard's images."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.contracts import Shard
from fl_sim.core.seeding import generator


def copy_images(shard: Shard) -> UInt8[Tensor, "n c h w"]:
    """Return a copy of the images of a shard.

    Raises:
        ValueError: If the shard holds features.
    """
    if shard.inputs.dtype != torch.uint8:
        raise ValueError("needs images, which a frozen part of the model hides")
    return shard.inputs.clone()


def select_share(
    shard: Shard, share: float, *labels: str, among: Int64[Tensor, " m"] | None = None
) -> Int64[Tensor, " k"]:
    """Return the rows of a share of the shard, or of some of its rows, the same in each round.

    Nested: a larger share contains the rows of a smaller one. At least one row, if there is any.

    Args:
        shard: Shard of the attacker.
        share: Share of the rows, in (0, 1].
        labels: Labels of the generator.
        among: Rows to choose from; None uses all.
    """
    candidates = torch.arange(len(shard)) if among is None else among
    shuffled = torch.randperm(len(candidates), generator=generator(shard.client, *labels))
    count = max(1, round(share * len(candidates)))
    return candidates[shuffled[:count]]
