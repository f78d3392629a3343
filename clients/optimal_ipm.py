"""IPM with the scale that harms the actual rule most."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients._shared.searching import SearchingColluder
from clients._shared.wrapping import mean
from clients.ipm import IpmClient
from fl_sim.contracts import Collusion


@final
@dataclass(frozen=True)
class OptimalIpmClient(SearchingColluder):
    """Send -epsilon times the mean, with the epsilon that moves the actual rule's step furthest.

    epsilon is searched for in each round: the rule is evaluated on every candidate, with its own
    state. Results against it are near the worst case of the family. With Flower's strategies, which
    cannot be evaluated, it is plain IPM.

    Threat model: the attackers know all honest updates of the round before they send, the rule, its
    state and the weights of all clients.

    Source: the optimal IPM of ByzFL (2025), https://arxiv.org/abs/2505.24802, after Xie et al.
    (2019), https://arxiv.org/abs/1903.03936; the search is of this project.

    Attributes:
        largest: Largest multiple of the mean to try.
        evaluations: Number of evaluations of the rule per round.
        honest: Training that the attackers pretend to do.
    """

    def forge_without_rule(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the update of plain IPM."""
        return IpmClient().compute_forged(known)

    def make_family(self, honest: Float[Tensor, "n p"]) -> Callable[[float], Float[Tensor, " p"]]:
        """Return the reversed mean, as a function of its factor."""
        centre = mean(honest)
        return lambda factor: -factor * centre
