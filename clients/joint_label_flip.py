"""Colluding label flipping: the mean of the honest clients' updates on wrong labels."""

from dataclasses import dataclass, field
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean
from clients.label_flip import LabelFlipClient
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion


@final
@dataclass(frozen=True)
class JointLabelFlipClient(Colluder):
    """Send the mean of the updates that honest clients would have sent on mirrored labels.

    The training of each honest client is repeated on the same batches with y -> C - 1 - y. The
    attackers need no images of their own, and all send the same update. It costs as much as the
    honest training again.

    Threat model: the attackers know the images of all honest clients, and which of them a round
    trains on; they do not need to know the rule.

    Source: "LabelFlipping" of ByzFL (2025), https://arxiv.org/abs/2505.24802, after Allen-Zhu et
    al. (2020), https://arxiv.org/abs/2012.14368. There the flipped gradients carry no worker
    momentum: use plain SGD as `honest` for that.

    Attributes:
        honest: Training to repeat on mirrored labels.
    """

    action: ClassVar[str] = "flip labels together"

    honest: Client = field(default_factory=SgdClient)

    def compute_forged(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the mean of the updates on mirrored labels.

        Raises:
            ValueError: If the backend does not train honest clients again.
        """
        if known.retrained is None:
            raise ValueError("JointLabelFlipClient needs Collusion.retrained")
        return mean(known.retrained(LabelFlipClient(honest=self.honest)))
