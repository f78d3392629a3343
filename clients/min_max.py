"""Min-Max: as far from the mean as any two honest updates are from each other."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients._shared.perturbing import DirectedColluder, measure_offsets
from fl_sim.core.distances import squared_distances


@final
@dataclass(frozen=True)
class MinMaxClient(DirectedColluder):
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

    def find_scale(
        self,
        honest: Float[Tensor, "n p"],
        centre: Float[Tensor, " p"],
        direction: Float[Tensor, " p"],
    ) -> Float[Tensor, ""]:
        """Solve |u - mean - g direction|^2 = D^2 for each honest u, and take the smallest g."""
        largest, length = squared_distances(honest).max(), direction.square().sum()
        along, away = measure_offsets(honest, centre, direction)
        roots = (along + (along.square() + length * (largest - away)).clamp(min=0).sqrt()) / length
        return roots.min().clamp(min=0)
