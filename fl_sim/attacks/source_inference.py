"""Source inference: prediction of the client that holds a record."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def predict_sources(
    client_margin: Float[Tensor, "k n"], rng: torch.Generator
) -> Int64[Tensor, " n"]:
    """Return the client whose model has the lowest loss on each record; ties are drawn.

    Clients whose margin is NaN are passed over; -1 stands for a record without any margin.

    Threat model: the server, which sees each client's model.

    Source: Hu et al. (2021), theorem 1, https://arxiv.org/abs/2109.05659. Guessing has an accuracy
    of 1 / k. The attack detects label skew as readily as membership: compare with held-out
    records of the same clients (`excess_accuracy`).
    """
    unscored = client_margin.isnan().all(0)
    known = client_margin.masked_fill(client_margin.isnan(), -torch.inf)
    best = (known == known.amax(0)) & (unscored | ~client_margin.isnan())
    drawn = torch.multinomial(best.double().T, 1, generator=rng).squeeze(1)
    return drawn.masked_fill(unscored, -1)


def excess_accuracy(
    right: Float[Tensor, " n"], held_out_right: Float[Tensor, " o"]
) -> Float[Tensor, ""]:
    """Return the accuracy on members minus that on held-out records of the same clients.

    The effect of label skew cancels; 0 without memorisation.
    """
    return right.mean() - held_out_right.mean()
