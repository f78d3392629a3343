"""Inner-product manipulation (IPM)."""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion
from fl_sim.core.errors import require_above


@final
@dataclass(frozen=True)
class IpmClient(Colluder):
    """Send -epsilon times the honest mean, so that the step has a negative product with it.

    With plain averaging the step is reversed once epsilon exceeds the number of honest clients over
    that of attackers; a small epsilon gets past rules that compare distances.

    Threat model: the attackers know all honest updates of the round before they send; they do not
    need to know the rule.

    Source: Xie et al. (2019), Fall of Empires, section 4, https://arxiv.org/abs/1903.03936; the
    default is that of ByzFL (2025), https://arxiv.org/abs/2505.24802.

    Attributes:
        scale: Norm of the forged update as a multiple of the mean's; epsilon in the paper.
        honest: Training that the attackers pretend to do.
    """

    scale: float = 2.0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "scale")

    def compute_forged(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the scaled and reversed mean."""
        return -self.scale * mean(known.honest)
