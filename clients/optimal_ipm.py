"""Inner-product manipulation, with the length that the actual rule takes worst."""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients.ipm import IpmClient
from clients.searching import strongest
from clients.sgd import SgdClient
from clients.wrapping import Colluder, mean
from fl_sim import description
from fl_sim.contracts import Client, Collusion
from fl_sim.errors import require


@final
@dataclass(frozen=True)
class OptimalIpmClient(Colluder):
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

    largest: float = 100.0
    evaluations: int = 20
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.largest > 0, "largest", "above 0", self.largest)
        require(self.evaluations >= 2, "evaluations", "at least 2", self.evaluations)

    def forged(self, seen: Collusion) -> Float[Tensor, " p"]:
        """Ask the rule, and send what does most damage."""
        centre = mean(seen.honest)
        if seen.rule is None:
            return IpmClient().forged(seen)
        return strongest(seen, seen.rule, lambda e: -e * centre, self.largest, self.evaluations)
