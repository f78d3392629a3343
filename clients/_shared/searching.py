"""Search for the strongest attack of a family against the actual rule."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion, RoundContext
from fl_sim.core.errors import require_above, require_at_least


@dataclass(frozen=True)
class SearchingColluder(Colluder):
    """An attack that sends the member of a family with the largest effect under the actual rule."""

    largest: float = 100.0
    evaluations: int = 20
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "largest")
        require_at_least(self, 2, "evaluations")

    @abstractmethod
    def forge_without_rule(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the forged update for rules that cannot be evaluated."""

    @abstractmethod
    def make_family(self, honest: Float[Tensor, "n p"]) -> Callable[[float], Float[Tensor, " p"]]:
        """Return the forged update as a function of its factor."""

    @final
    def compute_forged(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the forged update that moves the rule's step furthest from the honest mean.

        Half of the evaluations lie on a logarithmic grid from `largest` / 1000 to `largest`; the
        others bisect the gaps around the best factor so far. The damage is not smooth in the
        factor, because a robust rule rejects the attack from some factor on.
        """
        rule = known.rule
        if rule is None:
            return self.forge_without_rule(known)
        num_honest = len(known.honest)
        stack = torch.cat([known.honest, known.own])
        weights = torch.cat([known.honest_weights, known.own_weights])
        context = known.context or RoundContext.anonymous(len(stack))
        forged, centre = self.make_family(known.honest), mean(known.honest)

        def damage(factor: float) -> float:
            stack[num_honest:] = forged(factor).to(stack.dtype)
            step = rule.decide(known.state, stack, weights, context).step
            return float((step.double() - centre).norm())

        coarse = max(2, self.evaluations // 2)
        grid = (self.largest * 1000 ** (i / (coarse - 1) - 1) for i in range(coarse))
        damages = {factor: damage(factor) for factor in grid}
        while len(damages) < self.evaluations:
            middle = _find_middle(sorted(damages), _find_best(damages))
            if middle in damages:  # the gap is down to the resolution of floats
                break
            damages[middle] = damage(middle)
        return forged(_find_best(damages))


def _find_best(damages: dict[float, float]) -> float:
    """Return the factor with the largest damage, the smallest one of ties."""
    return max(sorted(damages), key=damages.__getitem__)


def _find_middle(factors: list[float], best: float) -> float:
    """Return the geometric middle of the wider of the two gaps beside the best factor."""
    gaps = [(high / low, low * high) for low, high in pairwise(factors) if best in (low, high)]
    return math.sqrt(max(gaps)[1])
