"""Agnostic federated learning: the best model for the worst mixture of clients."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.core.sums import weighted_sum

MOST = 1e300  # of a step: sums over clients stay finite
LARGE = 1e3  # values beyond which those of a mixture would drown in rounding
NOTHING = 1e-9  # of the mixture: what rounding leaves of a weight that was projected to zero


@final
@dataclass(frozen=True)
class AFL(InformedRule):
    """Updates weighted by a mixture that moves towards the clients with the highest loss.

    Known as AFL. The mixture starts even, takes a step along the losses in every round, and is
    projected back onto the simplex. A client with a lasting low loss ends with no weight at all.
    Withstands no attacker.

    Source: Mohri et al. (2019), section 4, https://arxiv.org/abs/1902.00146, with whole local
    trainings for stochastic gradients. Where not all clients take part, the step is the mean by
    the mixture among those that do.

    Attributes:
        mixture_learning_rate: step of the mixture along the losses; gamma lambda of the paper.
    """

    mixture_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        serialization.check_types(self)
        rate = self.mixture_learning_rate
        require(rate > 0, "mixture_learning_rate", "above 0", rate)

    @property
    def needs_losses(self) -> bool:
        """Yes: of the global model on each client's shard."""
        return True

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Return the mean by the mixture as it was, and the mixture after the losses."""
        self.check_count(updates)
        count, clients = context.num_clients, context.clients
        mixture = torch.full((count,), 1 / count).double() if state is None else state
        client_weights = mixture[clients]
        shares = (
            client_weights / client_weights.sum()
            if float(client_weights.sum()) > NOTHING
            else torch.zeros_like(client_weights)
        )
        moved = mixture.clone()
        steps = self.mixture_learning_rate * context.losses.double()
        moved[clients] += steps.clamp(max=MOST)
        step = weighted_sum(shares, updates).to(updates.dtype)
        return AggregationResult(project_onto_simplex(moved), step, shares)


def project_onto_simplex(values: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Return the nearest vector that has no negative value and sums to one.

    Source: Duchi et al. (2008), figure 1, https://doi.org/10.1145/1390156.1390191.

    >>> project_onto_simplex(torch.tensor([0.5, 0.5, 3.0]))
    tensor([0., 0., 1.])

    However large the values are, they count from the largest one, which moves nothing:

    >>> project_onto_simplex(torch.tensor([1e16, 0.0]))
    tensor([1., 0.])
    """
    if float(values.abs().max()) > LARGE:
        values = values - values.max()
    ordered = values.sort(descending=True).values
    places = torch.arange(1, len(values) + 1)
    excess = (ordered.cumsum(0) - 1) / places
    last = int((ordered > excess).nonzero().max())
    return (values - excess[last]).clamp(min=0)
