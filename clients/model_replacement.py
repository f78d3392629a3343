"""Model replacement: an update scaled so that the average becomes the attackers' model."""

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion
from fl_sim.core.errors import require_above


@final
@dataclass(frozen=True)
class ModelReplacementClient(Colluder):
    """Send the own update times the weight of all clients over that of the attackers.

    Under plain averaging, and if honest updates cancel, the global model becomes the mean of the
    attackers' models. Wrap a backdoor: `ModelReplacementClient(honest=BackdoorClient())`.

    Threat model: the attackers control their training and updates, act together, and know the
    weight of each client; they use no honest update.

    Source: Bagdasaryan et al. (2020), How To Backdoor Federated Learning, equation 3,
    https://arxiv.org/abs/1807.00459.

    Attributes:
        server_learning_rate: Factor that the server applies to the mean; the update is divided by
            it.
        honest: Training whose result is to become the global model.
    """

    server_learning_rate: float = 1.0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "server_learning_rate")

    def compute_forged(self, known: Collusion) -> Float[Tensor, "k p"]:
        """Lengthen what each attacker trained by the same factor."""
        attacker_weight = float(known.own_weights.sum())
        factor = (float(known.honest_weights.sum()) + attacker_weight) / attacker_weight
        return known.own * (factor / self.server_learning_rate)
