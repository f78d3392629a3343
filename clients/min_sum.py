"""Min-Sum: no further from all honest updates together than one of them is."""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients.perturbing import Direction, against
from clients.sgd import SgdClient
from clients.wrapping import Colluder, mean
from fl_sim import description
from fl_sim.contracts import Client, Collusion
from fl_sim.distances import squared_distances


@final
@dataclass(frozen=True)
class MinSumClient(Colluder):
    """Go as far as the sum of squared distances stays within that of an honest update.

    All colluders send mean + g direction, with the largest g for which the sum of squared
    distances to the honest updates is at most that of the honest one that is worst off. More
    cautious than Min-Max. The paper finds g by halving steps; here it is solved for.

    Threat model: the attackers see all honest updates of the round before they send; they do
    not know the rule.

    Source: Shejwalkar and Houmansadr (2021), Manipulating the Byzantine, section IV-B,
    https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/.

    Attributes:
        direction: against the deviation of each coordinate (`deviation`), the sign of the
            mean (`sign`), or the mean itself (`mean`).
        honest: the training that the attackers pretend to.
    """

    direction: Direction = "deviation"
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        description.check_types(self)

    def forged(self, seen: Collusion) -> Float[Tensor, " p"]:
        """Solve S(mean) + m g^2 |direction|^2 = worst S: offsets from a mean cancel."""
        centre, way = mean(seen.honest), against(seen.honest, self.direction)
        table, length = squared_distances(seen.honest), way.square().sum()
        if length == 0:
            return centre
        of_mean = table.sum() / (2 * len(table))
        room = (table.sum(1).max() - of_mean) / (len(table) * length)
        return centre + room.clamp(min=0).sqrt() * way
