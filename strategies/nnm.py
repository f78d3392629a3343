"""Nearest-neighbour mixing, in front of any rule."""

from dataclasses import dataclass, field
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim import description
from fl_sim.contracts import AggregationRule
from strategies.distances import squared_distances
from strategies.median import CoordinateMedian
from strategies.mixing import aggregate_mixed, check_attackers


def neighbour_mixture(updates: Float[Tensor, "n p"], num_byzantine: int) -> Float[Tensor, "n n"]:
    """Return, in a row an update, the shares of its n - f nearest updates, itself one of them.

    Ties go to the lower position.
    """
    count = len(updates) - num_byzantine
    distances = squared_distances(updates).fill_diagonal_(-1)  # itself first, also among twins
    nearest = distances.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(distances).scatter_(1, nearest, 1 / count)


@final
@dataclass(frozen=True)
class NearestNeighborMixing(AggregationRule):
    """Any rule, given for each update the mean of it and its nearest neighbours.

    Mixing makes honest updates alike where shards differ, so that the rule has less to tell
    apart. Withstands `num_byzantine` = f clients, fewer than half, where the rule does; its own
    `num_byzantine` has to be as large.

    Source: Allouah et al. (2023), algorithm 2, https://arxiv.org/abs/2302.01772.

    Attributes:
        num_byzantine: attackers to survive; an update is mixed with all but as many others.
        rule: what aggregates the mixed updates.
    """

    num_byzantine: int = 1
    rule: AggregationRule = field(default_factory=CoordinateMedian)

    def __post_init__(self) -> None:
        description.check_types(self)
        check_attackers(self.rule, self.num_byzantine)

    @property
    def min_updates(self) -> int:
        """2 f + 1, and no fewer than the rule needs."""
        return max(2 * self.num_byzantine + 1, self.rule.min_updates)

    def initial_state(self, num_parameters: int) -> Any:
        """Return the state of the rule."""
        return self.rule.initial_state(num_parameters)

    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return what the rule makes of the mixed updates; weights stay with their clients."""
        self.check_count(updates)
        mixture = neighbour_mixture(updates, self.num_byzantine)
        return aggregate_mixed(self.rule, state, mixture.matmul, updates, weights)
