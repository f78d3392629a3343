"""The label-only baseline, which uses no model and detects mismatched pools."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def label_only_scores(
    clients: Int64[Tensor, " n"], labels: Int64[Tensor, " n"], members: Bool[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Return, for each record, the share of members among the records of its client and label.

    A baseline for every attack, and no attack itself: it is given the true membership. Where it
    beats chance, attacks may detect the shift between the pools instead of membership. On a
    matched pool its AUC is exactly 0.5, as of guessing.

    Source: this project.
    """
    kinds: Tensor = torch.stack([clients, labels], 1).unique(dim=0, return_inverse=True)[1]
    counts = kinds.bincount().double()
    inside = kinds[members].bincount(minlength=len(counts)).double()
    return inside[kinds] / counts[kinds]
