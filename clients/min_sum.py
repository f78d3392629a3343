"""Min-Sum: no further from all honest updates together than one of them is."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients._shared.perturbing import DirectedColluder
from fl_sim.core.distances import squared_distances


@final
@dataclass(frozen=True)
class MinSumClient(DirectedColluder):
    """Send mean + g direction, within the largest sum of squared distances of an honest update.

    g is the largest number with sum_i |mean + g direction - u_i|^2 <= max_j sum_i |u_j - u_i|^2.
    More cautious than Min-Max. The paper finds it by halving steps; here it is solved for.

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
        """Solve S(mean) + m g^2 |direction|^2 = max S for g; the cross terms cancel at the mean."""
        table, length = squared_distances(honest), direction.square().sum()
        of_mean = table.sum() / (2 * len(table))
        squared = (table.sum(1).max() - of_mean) / (len(table) * length)
        return squared.clamp(min=0).sqrt()
