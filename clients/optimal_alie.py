"""ALIE with the number of deviations that harms the actual rule most."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients._shared.searching import SearchingColluder
from clients._shared.wrapping import mean, std
from clients.alie import AlieClient
from fl_sim.contracts import Collusion


@final
@dataclass(frozen=True)
class OptimalAlieClient(SearchingColluder):
    """Send mean - z std with the z that moves the actual rule's step furthest from the mean.

    z is searched for in each round: the rule is evaluated on every candidate, with its own state.
    Results against it are near the worst case of the family. With Flower's strategies, which cannot
    be evaluated, it is plain ALIE.

    Threat model: the attackers know all honest updates of the round before they send, the rule, its
    state and the weights of all clients.

    Source: the optimal ALIE of ByzFL (2025), https://arxiv.org/abs/2505.24802, after Baruch et al.
    (2019), https://arxiv.org/abs/1902.06156; the search is of this project.

    Attributes:
        largest: Largest number of standard deviations to try.
        evaluations: Number of evaluations of the rule per round.
        honest: Training that the attackers pretend to do.
    """

    def forge_without_rule(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the update of plain ALIE."""
        return AlieClient().compute_forged(known)

    def make_family(self, honest: Float[Tensor, "n p"]) -> Callable[[float], Float[Tensor, " p"]]:
        """Return the mean minus z deviations, as a function of z."""
        centre, width = mean(honest), std(honest)
        return lambda z: centre - z * width
