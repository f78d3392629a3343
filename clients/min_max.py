"""Min-Max: no further from an honest update than the two most distant ones are apart."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients._shared.perturbing import DirectedColluder, measure_offsets
from fl_sim.core.distances import squared_distances


@final
@dataclass(frozen=True)
class MinMaxClient(DirectedColluder):
    """Send mean + g direction, within the largest distance between two honest updates.

    g is the largest number with max_i |mean + g direction - u_i| <= max_(i, j) |u_i - u_j|. The
    paper finds it by halving steps; it is the root of a quadratic equation, which is solved here.

    Threat model: the attackers know all honest updates of the round before they send; they do not
    know the rule (agnostic).

    Source: Shejwalkar and Houmansadr (2021), Manipulating the Byzantine, section IV-B,
    https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/.

    Attributes:
        direction: Against the standard deviation of each coordinate (`deviation`), the sign of the
            mean (`sign`), or the mean itself (`mean`).
        honest: Training that the attackers pretend to do.
    """

    def find_scale(
        self,
        honest: Float[Tensor, "n p"],
        centre: Float[Tensor, " p"],
        direction: Float[Tensor, " p"],
    ) -> Float[Tensor, ""]:
        """Solve |u - mean - g direction|^2 = D^2 for each honest u, and return the smallest g."""
        largest, length = squared_distances(honest).max(), direction.square().sum()
        along, away = measure_offsets(honest, centre, direction)
        roots = (along + (along.square() + length * (largest - away)).clamp(min=0).sqrt()) / length
        return roots.min().clamp(min=0)
