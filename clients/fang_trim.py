"""An attack on the trimmed mean and the median: values just outside the honest ones."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion
from fl_sim.core import serialization
from fl_sim.core.errors import require


@final
@dataclass(frozen=True)
class FangTrimClient(Colluder):
    """Send, coordinate by coordinate, values just outside the honest ones, on the wrong side.

    Where the honest mean rises, each attacker draws a value below the lowest honest one, up
    to `reach` times as far from zero (or as much nearer, where the lowest is positive); where
    it falls, above the highest. A trimmed mean or median is dragged the wrong way as far as
    its own range allows. In update space: zero is the global model.

    Threat model: the attackers see all honest updates of the round before they send (the
    paper's full knowledge), and guess that the rule trims.

    Source: Fang et al. (2020), section 4.3, https://arxiv.org/abs/1911.11815.

    Attributes:
        reach: b of the paper.
        honest: the training that the attackers pretend to.
    """

    reach: float = 2.0
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.reach > 1, "reach", "above 1", self.reach)

    def compute_forged(self, known: Collusion) -> Float[Tensor, "k p"]:
        """Draw each attacker's values on the side against the mean."""
        rises = mean(known.honest) > 0
        edge = torch.where(rises, known.honest.amin(0), known.honest.amax(0))
        drawn = torch.rand(known.own.shape, generator=known.rng, dtype=known.own.dtype)
        factor = 1 + (self.reach - 1) * drawn
        outwards = (edge < 0) == rises
        return edge * torch.where(outwards, factor, 1 / factor)
