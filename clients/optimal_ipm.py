"""Inner-product manipulation, with the length that the actual rule takes worst."""

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
    """Send the opposite of the honest mean, as long as hurts most under the actual rule.

    The factor is searched for each round: the rule is asked what it would make of every
    candidate, with its own state. Figures against it are near the worst case of the family.
    Where one of Flower's strategies aggregates, which cannot be asked, it is plain IPM.

    Threat model: the attackers see all honest updates of the round before they send, and know
    the rule, its state and the weights of all clients.

    Source: the optimal IPM of ByzFL (2025), https://arxiv.org/abs/2505.24802, after Xie et al.
    (2019), https://arxiv.org/abs/1903.03936; the search is of this project.

    Attributes:
        largest: largest multiple of the mean that is tried.
        evaluations: how often the rule is asked, each round.
        honest: the training that the attackers pretend to.
    """

    def forge_without_rule(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the update of plain IPM."""
        return IpmClient().compute_forged(known)

    def make_family(self, honest: Float[Tensor, "n p"]) -> Callable[[float], Float[Tensor, " p"]]:
        """Return the reversed mean, as a function of its length."""
        centre = mean(honest)
        return lambda factor: -factor * centre
