"""A little is enough, with the number of deviations that the actual rule takes worst."""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients.alie import AlieClient
from clients.searching import strongest
from clients.sgd import SgdClient
from clients.wrapping import Colluder, deviation, mean
from fl_sim import description
from fl_sim.contracts import Client, Collusion
from fl_sim.errors import require


@final
@dataclass(frozen=True)
class OptimalAlieClient(Colluder):
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

    largest: float = 100.0
    evaluations: int = 20
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        description.check_types(self)
        require(self.largest > 0, "largest", "above 0", self.largest)
        require(self.evaluations >= 2, "evaluations", "at least 2", self.evaluations)

    def forged(self, seen: Collusion) -> Float[Tensor, " p"]:
        """Ask the rule, and send what does most damage."""
        centre, width = mean(seen.honest), deviation(seen.honest)
        if seen.rule is None:
            return AlieClient().forged(seen)
        return strongest(
            seen, seen.rule, lambda z: centre - z * width, self.largest, self.evaluations
        )
