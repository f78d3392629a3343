"""Aggregation of low-rank changes by their product, of which frozen weights take the rest."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import LowRankPlace, RoundContext, Updates, Weights
from fl_sim.core.sums import weighted_sum


def average_updates(
    updates: Updates, weights: Weights, weighted: bool
) -> tuple[Float[Tensor, " n"], Float[Tensor, " p"]]:
    """Return the share of each client, and the mean of the updates by these shares.

    Args:
        updates: Updates, one row per client.
        weights: Weight of each client.
        weighted: Whether shares are in proportion to the weights; False: they are equal.
    """
    counted = weights.double() if weighted else torch.ones_like(weights).double()
    shares = counted / counted.sum()
    return shares, weighted_sum(shares, updates).to(updates.dtype)


def fold_products(
    shares: Float[Tensor, " n"], updates: Updates, step: Float[Tensor, " p"], context: RoundContext
) -> dict[str, Tensor]:
    """Return the changes of frozen weights that make the mean of the products exact.

    With a step to the factors A' and B', each is s (sum_i share_i B_i A_i - B' A'), so that the
    weight with its low-rank change is the weighted mean of the clients' weights.

    Args:
        shares: Share of each client; they sum to one.
        updates: Updates, one row per client.
        step: Step to the next factors.
        context: Context of the round, with the places of the factors.
    """
    return {
        place.base: _compute_rest(place, shares, updates, step, context)
        for place in context.low_rank
    }


def _compute_rest(
    place: LowRankPlace,
    shares: Float[Tensor, " n"],
    updates: Updates,
    step: Float[Tensor, " p"],
    context: RoundContext,
) -> Tensor:
    """Return s (sum_i share_i B_i A_i - B' A'), in float64, in the shape of the frozen weight."""
    down = _stack_factors(place.down, updates, step, context).view(
        -1, place.rank, math.prod(place.shape[1:])
    )
    up = _stack_factors(place.up, updates, step, context).view(-1, place.shape[0], place.rank)
    factors = torch.cat([shares.double(), -torch.ones(1, dtype=torch.float64)])
    scaled = (place.scaling * factors)[:, None, None] * up
    # The sum of products is one product of all factors side by side.
    return (scaled.transpose(0, 1).flatten(1) @ down.flatten(0, 1)).view(place.shape)


def _stack_factors(
    columns: slice, updates: Updates, step: Float[Tensor, " p"], context: RoundContext
) -> Float[Tensor, "m q"]:
    """Return some parameters of all clients, and last those of the next model, in float64."""
    assert context.parameters is not None
    changes = torch.cat([updates[:, columns], step[None, columns]]).double()
    return context.parameters[columns].double() + changes
