"""The gate: an attack that sees no model."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def label_only_scores(
    clients: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], members: Bool[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Score records by client and label alone: how many of their kind are members.

    A baseline beside every attack, not an attack: it is told who is a member. Where it beats
    chance, what an attack finds is the shift between the pools, not membership. On a matched
    pool it gives an AUC of exactly 0.5.

    Source: this project.
    """
    kinds: Tensor = torch.stack([clients, labels], 1).unique(dim=0, return_inverse=True)[1]
    counts = kinds.bincount().double()
    inside = kinds[members].bincount(minlength=len(counts)).double()
    return inside[kinds] / counts[kinds]
