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

    def find_scale(
        self,
        honest: Float[Tensor, "n p"],
        centre: Float[Tensor, " p"],
        direction: Float[Tensor, " p"],
    ) -> Float[Tensor, ""]:
        """Solve S(mean) + m g^2 |direction|^2 = worst S: offsets from a mean cancel."""
        table, length = squared_distances(honest), direction.square().sum()
        of_mean = table.sum() / (2 * len(table))
        squared = (table.sum(1).max() - of_mean) / (len(table) * length)
        return squared.clamp(min=0).sqrt()
