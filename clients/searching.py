"""The search for the strongest attack of a family, against the rule that is really used."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from clients.wrapping import mean
from fl_sim.contracts import AggregationRule, Collusion, Senders


def strongest(
    seen: Collusion,
    rule: AggregationRule,
    forged: Callable[[float], Float[Tensor, " p"]],
    largest: float,
    evaluations: int,
) -> Float[Tensor, " p"]:
    """Return the forged update with which the rule's step ends furthest from the honest mean.

    Half of the evaluations lie on a logarithmic grid from a thousandth of `largest` up, the
    others halve the gaps around the best so far: damage is no smooth function of the factor,
    since a robust rule drops an attack from some factor on.

    Args:
        seen: what the attackers know.
        rule: what will aggregate.
        forged: the update by factor.
        largest: factor that is tried.
        evaluations: how often the rule may be asked.
    """
    honest = len(seen.honest)
    stack = torch.cat([seen.honest, seen.own])
    weights = torch.cat([seen.honest_weights, seen.own_weights])
    senders = seen.senders or Senders.anonymous(len(stack))
    centre = mean(seen.honest)

    def damage(factor: float) -> float:
        stack[honest:] = forged(factor).to(stack.dtype)
        step = rule.decide(seen.state, stack, weights, senders).step
        return float((step.double() - centre).norm())

    coarse = max(2, evaluations // 2)
    grid = (largest * 1000 ** (i / (coarse - 1) - 1) for i in range(coarse))
    found = {factor: damage(factor) for factor in grid}
    while len(found) < evaluations:
        middle = _middle(sorted(found), _best(found))
        if middle in found:  # the gap is as small as floats are
            break
        found[middle] = damage(middle)
    return forged(_best(found))


def _best(found: dict[float, float]) -> float:
    """Return the factor that does most damage, the smallest of equals."""
    return max(sorted(found), key=found.__getitem__)


def _middle(factors: list[float], best: float) -> float:
    """Return the middle of the wider of the two gaps beside the best factor."""
    gaps = [(high / low, low * high) for low, high in pairwise(factors) if best in (low, high)]
    return math.sqrt(max(gaps)[1])
