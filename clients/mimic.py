"""Mimic: repeat one honest client, so that its data counts too much."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion
from fl_sim.core import serialization
from fl_sim.core.distances import gram_matrix


@final
@dataclass(frozen=True)
class MimicClient(Colluder):
    """Send what one honest client sends, the one that lies furthest out.

    Each copy is as valid as its original; together they outvote what the others know. Works
    against robust rules where clients are unlike, and not where they are alike. The client
    furthest out is the one with the largest product with the direction of largest variance.
    The paper estimates that direction over a warm-up; here, colluders keep no memory and
    choose anew each round.

    Threat model: the attackers see all honest updates of the round before they send; they do
    not need to know the rule.

    Source: Karimireddy et al. (2022), section 3.2 and appendix B,
    https://arxiv.org/abs/2006.09365.

    Attributes:
        honest: the training that the attackers pretend to.
    """

    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        serialization.check_types(self)

    def compute_forged(self, known: Collusion) -> Float[Tensor, " p"]:
        """Copy the honest update with the largest share in the first principal component."""
        products = gram_matrix(known.honest, mean(known.honest))
        component = torch.linalg.eigh(products).eigenvectors[:, -1]
        return known.honest[int(component.abs().argmax())]
