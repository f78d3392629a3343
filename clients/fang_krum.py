"""Directed deviation attack on Krum."""

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clients._shared.perturbing import measure_offsets, oppose
from clients._shared.wrapping import Colluder
from clients.sgd import SgdClient
from fl_sim.contracts import Client, Collusion
from fl_sim.core.distances import squared_distances
from fl_sim.core.errors import require_above


@final
@dataclass(frozen=True)
class FangKrumClient(Colluder):
    """Send -s sign(mean) with the largest s, found by halving, at which Krum selects it.

    All colluders send the same update, so that they are each other's nearest neighbours. The search
    starts at the upper bound of theorem 1. In update space the origin is the global model.

    Threat model: the attackers know all honest updates of the round before they send (the paper's
    full knowledge), and assume that the rule is Krum for as many attackers as they are.

    Source: Fang et al. (2020), section 4.2 and theorem 1, https://arxiv.org/abs/1911.11815.

    Attributes:
        smallest: Value of s at which the search gives up.
        honest: Training that the attackers pretend to do.
    """

    smallest: float = 1e-5
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "smallest")

    def compute_forged(self, known: Collusion) -> Float[Tensor, " p"]:
        """Return -s sign(mean), with s halved until Krum would select it."""
        direction = oppose(known.honest, "sign")
        along, away = measure_offsets(known.honest, torch.zeros_like(direction), direction)
        table, length = squared_distances(known.honest), float(direction.square().sum())
        num_attackers, size = (
            len(known.own),
            float(compute_upper_bound(table, away, len(known.own), length)),
        )
        while size > self.smallest:
            to_honest = away - 2 * size * along + size**2 * length
            if is_picked(table, to_honest, num_attackers):
                break
            size /= 2
        return size * direction


def is_picked(
    table: Float[Tensor, "m m"], to_honest: Float[Tensor, " m"], num_attackers: int
) -> bool:
    """Return whether Krum selects one of `num_attackers` copies over every honest update.

    Args:
        table: Squared distances between honest updates.
        to_honest: Squared distances from the copies to the honest updates.
        num_attackers: Number of copies, and the f of Krum.
    """
    near = max(1, len(table) - 2)  # n - f - 2 neighbours, where n = m + f
    copies = to_honest[:, None].expand(-1, num_attackers)
    others = torch.cat([drop_diagonal(table), copies], 1)
    honest_scores = others.sort(1).values[:, :near].sum(1)
    copy_distances = torch.cat([torch.zeros(num_attackers - 1, dtype=torch.float64), to_honest])
    return bool(copy_distances.sort().values[:near].sum() < honest_scores.min())


def compute_upper_bound(
    table: Float[Tensor, "m m"], away: Float[Tensor, " m"], num_attackers: int, size: float
) -> Float[Tensor, ""]:
    """Return the bound of theorem 1 on s, from distances between honest updates.

    Args:
        table: Squared distances between honest updates.
        away: Squared norms of the honest updates.
        num_attackers: Number of attackers; c in the paper.
        size: Number of parameters that move; d in the paper.
    """
    near = max(1, len(table) - 2)
    best = drop_diagonal(table).sort(1).values[:, :near].sum(1).min()
    others = max(1, len(table) - num_attackers - 1)  # n - 2c - 1
    moving = max(size, 1.0)
    bound: Tensor = (best / (others * moving)).sqrt() + (away.max() / moving).sqrt()
    return bound


def drop_diagonal(table: Float[Tensor, "m m"]) -> Float[Tensor, "m l"]:
    """Return each row without its entry on the diagonal."""
    return table[~torch.eye(len(table), dtype=torch.bool)].view(len(table), len(table) - 1)
