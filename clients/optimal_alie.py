"""A little is enough, with the number of deviations that the actual rule takes worst."""

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
    """Send the honest mean, moved by as many deviations as hurt most under the actual rule.

    The factor is searched for each round: the rule is asked what it would make of every
    candidate, with its own state. Figures against it are near the worst case of the family.
    Where one of Flower's strategies aggregates, which cannot be asked, it is plain ALIE.

    Threat model: the attackers see all honest updates of the round before they send, and know
    the rule, its state and the weights of all clients.

    Source: the optimal ALIE of ByzFL (2025), https://arxiv.org/abs/2505.24802, after Baruch et al.
    (2019), https://arxiv.org/abs/1902.06156; the search is of this project.

    Attributes:
        largest: largest number of standard deviations that is tried.
        evaluations: how often the rule is asked, each round.
        honest: the training that the attackers pretend to.
    """

    def forge_without_rule(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the update of plain ALIE."""
        return AlieClient().compute_forged(known)

    def make_family(self, honest: Float[Tensor, "n p"]) -> Callable[[float], Float[Tensor, " p"]]:
        """Return the mean minus z deviations, as a function of z."""
        centre, width = mean(honest), std(honest)
        return lambda z: centre - z * width
