"""Directed deviation attack on the trimmed mean and the median."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion
from fl_sim.core.errors import require_above


@final
@dataclass(frozen=True)
class FangTrimClient(Colluder):
    """Send, coordinate by coordinate, values just outside the honest ones, on the wrong side.

    In a coordinate with a positive honest mean, each attacker draws a value below the smallest
    honest one w_min: from [b w_min, w_min] if it is negative, from [w_min / b, w_min] otherwise;
    with a negative mean, above the largest. A trimmed mean or median is moved as far in the wrong
    direction as the honest range allows. In update space zero is the global model.

    Threat model: the attackers know all honest updates of the round before they send (the paper's
    full knowledge), and assume that the rule trims.

    Source: Fang et al. (2020), section 4.3, https://arxiv.org/abs/1911.11815.

    Attributes:
        reach: Bound of the ratio to the honest value; b in the paper.
        honest: Training that the attackers pretend to do.
    """

    reach: float = 2.0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 1, "reach")

    def compute_forged(self, known: Collusion) -> Float[Tensor, "k p"]:
        """Return random values per attacker, on the side opposite to the mean."""
        rises = mean(known.honest) > 0
        edge = torch.where(rises, known.honest.amin(0), known.honest.amax(0))
        drawn = torch.rand(known.own.shape, generator=known.rng, dtype=known.own.dtype)
        factor = 1 + (self.reach - 1) * drawn
        outwards = (edge < 0) == rises
        return edge * torch.where(outwards, factor, 1 / factor)
