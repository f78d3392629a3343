"""Min-Max: as far from the mean as any two honest updates are from each other."""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients.perturbing import Direction, against, offsets
from clients.sgd import SgdClient
from clients.wrapping import Colluder, mean
from fl_sim import description
from fl_sim.contracts import Client, Collusion
from fl_sim.distances import squared_distances


@final
@dataclass(frozen=True)
class MinMaxClient(Colluder):
    """Go as far as the largest distance to an honest update stays within the honest ones' own.

    All colluders send mean + g direction, with the largest g for which no honest update is
    further away than the two honest ones that are furthest apart. The paper finds g by
    halving steps; it is the root of a quadratic equation, which is solved here.

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
        """Solve |u - mean - g direction|^2 = D^2 for each honest u, and take the smallest g."""
        centre, way = mean(seen.honest), against(seen.honest, self.direction)
        largest = squared_distances(seen.honest).max()
        along, away = offsets(seen.honest, centre, way)
        length = way.square().sum()
        if length == 0:
            return centre
        roots = (along + (along.square() + length * (largest - away)).clamp(min=0).sqrt()) / length
        return centre + roots.min().clamp(min=0) * way
