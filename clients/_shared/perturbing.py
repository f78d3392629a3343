"""Base class of the attacks that move the honest mean along a direction (Min-Max, Min-Sum)."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from clients._shared.wrapping import Colluder, mean, std
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion
from fl_sim.core.sums import chunks

Direction = Literal["deviation", "sign", "mean"]


def oppose(updates: Float[Tensor, "n p"], direction: Direction) -> Float[Tensor, " p"]:
    """Return the perturbation direction, against the honest updates, in float64.

    Source: Shejwalkar and Houmansadr (2021), section IV-B: inverse standard deviation, inverse
    sign, inverse unit vector.
    """
    if direction == "deviation":
        return -std(updates)
    centre = mean(updates)
    if direction == "sign":
        return -centre.sign()
    norm = centre.norm()
    return -centre / norm if norm > 0 else -centre


def measure_offsets(
    updates: Float[Tensor, "n p"], origin: Float[Tensor, " p"], direction: Float[Tensor, " p"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return each update's product with `direction` and squared length, relative to `origin`."""
    along, away = torch.zeros(2, len(updates), dtype=torch.float64)
    for columns in chunks(updates.shape[1]):
        part = updates[:, columns].double() - origin[columns]
        along += part @ direction[columns]
        away += part.square().sum(1)
    return along, away


@dataclass(frozen=True)
class DirectedColluder(Colluder):
    """An attack that sends mean + g direction, with g from `find_scale`."""

    direction: Direction = "deviation"
    honest: Client = field(default_factory=SgdClient)

    @abstractmethod
    def find_scale(
        self,
        honest: Float[Tensor, "n p"],
        centre: Float[Tensor, " p"],
        direction: Float[Tensor, " p"],
    ) -> Float[Tensor, ""]:
        """Return g, the multiple of `direction` to add to `centre`, the honest mean."""

    @final
    def compute_forged(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return the moved mean, or the mean itself if the direction is zero."""
        centre, direction = mean(known.honest), oppose(known.honest, self.direction)
        if direction.square().sum() == 0:
            return centre
        return centre + self.find_scale(known.honest, centre, direction) * direction
