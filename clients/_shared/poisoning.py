"""Helpers for poisoning a shard's images."""

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from fl_sim.contracts import Client, Shard
from fl_sim.core.seeding import generator


def change_inputs(client: Client, shard: Shard) -> Shard:
    """Return the shard with the images that `client` changes them to, or with their features.

    Features are those of the images after all changes of a stack of attacks: only the training
    itself, which comes last, looks at them.

    Raises:
        ValueError: If the shard holds features, and none of the changed images.
    """
    if shard.inputs.dtype == torch.uint8:
        return replace(shard, inputs=client.change_images(shard.inputs, shard))
    if shard.changed_inputs is None:
        raise ValueError("needs features of the images that it changes, and the shard has none")
    return replace(shard, inputs=shard.changed_inputs)


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
