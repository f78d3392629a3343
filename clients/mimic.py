"""Mimic: copies of one honest client, so that its data counts too much."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion
from fl_sim.core.distances import gram_matrix


@final
@dataclass(frozen=True)
class MimicClient(Colluder):
    """Send the update of the honest client furthest out along the direction of largest variance.

    Each copy is as valid as its original; together they outvote the other clients. Effective
    against robust rules if clients are heterogeneous. The paper estimates the direction z = argmax
    over unit z of sum_i <z, u_i - mean>^2 over a warm-up; here colluders keep no memory and choose
    anew in each round.

    Threat model: the attackers know all honest updates of the round before they send; they do not
    need to know the rule.

    Source: Karimireddy et al. (2022), section 3.2 and appendix B, https://arxiv.org/abs/2006.09365.

    Attributes:
        honest: Training that the attackers pretend to do.
    """

    honest: Client = field(default_factory=SgdClient)

    def compute_forged(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the honest update with the largest share in the first principal component."""
        products = gram_matrix(known.honest, mean(known.honest))
        component = torch.linalg.eigh(products).eigenvectors[:, -1]
        return known.honest[int(component.abs().argmax())]
