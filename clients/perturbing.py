"""Directions in which attackers leave the honest mean."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from clients.wrapping import deviation, mean
from fl_sim.sums import chunks

Direction = Literal["deviation", "sign", "mean"]


def against(updates: Float[Tensor, "n p"], direction: Direction) -> Float[Tensor, " p"]:
    """Return the direction that leads away from where honest clients want to go, in float64.

    Source: Shejwalkar and Houmansadr (2021), section IV-B: inverse standard deviation, inverse
    sign, inverse unit vector.
    """
    if direction == "deviation":
        return -deviation(updates)
    centre = mean(updates)
    if direction == "sign":
        return -centre.sign()
    norm = centre.norm()
    return -centre / norm if norm > 0 else -centre


def offsets(
    updates: Float[Tensor, "n p"], origin: Float[Tensor, " p"], way: Float[Tensor, " p"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return, seen from `origin`, each update's product with `way` and its squared length."""
    along, away = torch.zeros(2, len(updates), dtype=torch.float64)
    for columns in chunks(updates.shape[1]):
        part = updates[:, columns].double() - origin[columns]
        along += part @ way[columns]
        away += part.square().sum(1)
    return along, away
