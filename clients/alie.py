"""A little is enough (ALIE): perturbations within the spread of the honest updates."""

from dataclasses import dataclass, field
from statistics import NormalDist
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean, std
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion


@final
@dataclass(frozen=True)
class AlieClient(Colluder):
    """Send the honest mean, moved by z standard deviations in each coordinate.

    All colluders send mean - z std: near enough to honest updates that rules which look for
    outliers accept it, and in the same direction in all coordinates, round after round.

    Threat model: the attackers know all honest updates of the round before they send (omniscient);
    they do not need to know the rule.

    Source: Baruch et al. (2019), A Little Is Enough, algorithm 3, https://arxiv.org/abs/1902.06156.

    Attributes:
        deviations: z; None uses the paper's z_max, at which the forged update is still nearer to
            the mean than the honest updates that the attackers need for a majority.
        honest: Training that the attackers pretend to do.
    """

    deviations: float | None = None
    honest: Client = field(default_factory=SgdClient)

    def compute_forged(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the mean minus z deviations."""
        z = self.deviations
        if z is None:
            z = compute_max_deviation(len(known.honest), len(known.own))
        return mean(known.honest) - z * std(known.honest)


def compute_max_deviation(num_honest: int, num_colluders: int) -> float:
    """Return z_max of the paper, the normal quantile of (n - f - s) / (n - f).

    The s supporters make a majority together with the f attackers; if these are one by themselves,
    s is 1.

    >>> round(compute_max_deviation(9, 2), 4)
    0.1397
    """
    clients = num_honest + num_colluders
    supporters = max(1, clients // 2 + 1 - num_colluders)
    share = (num_honest - supporters) / num_honest
    return max(0.0, NormalDist().inv_cdf(share)) if share > 0 else 0.0
