"""Agnostic federated learning (AFL): minimax over mixtures of the clients' distributions."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.errors import require_above
from fl_sim.core.sums import weighted_sum

MOST = 1e300  # largest step: sums over clients stay finite
LARGE = 1e3  # larger values would lose the mixture to rounding
NOTHING = 1e-9  # what rounding may leave of a weight projected to zero


@final
@dataclass(frozen=True)
class AFL(InformedRule):
    """Updates weighted by a mixture that moves towards the clients with the highest loss.

    Solves min over w of the max over mixtures lambda of sum_k lambda_k F_k(w), known as AFL. Each
    round lambda takes a gradient step along the losses and is projected back onto the simplex; it
    starts uniform. A client whose loss stays low ends with weight 0. Tolerates no attacker.

    Source: Mohri et al. (2019), section 4, https://arxiv.org/abs/1902.00146, with whole local
    trainings in place of stochastic gradients. If only some clients take part, the step is the mean
    weighted by the mixture over those.

    Attributes:
        mixture_learning_rate: Step size of the mixture; gamma_lambda in the paper.
    """

    mixture_learning_rate: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "mixture_learning_rate")

    @property
    def needs_losses(self) -> bool:
        """Always True: the loss of the global model on each client's shard."""
        return True

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean weighted by the current mixture, and the next mixture."""
        self.check_count(updates)
        count, clients = context.num_clients, context.clients
        mixture = torch.full((count,), 1 / count).double() if state is None else state
        client_weights = mixture[clients]
        total = client_weights.sum()
        shares = client_weights / total if float(total) > NOTHING else 0 * client_weights
        moved = mixture.clone()
        steps = self.mixture_learning_rate * context.losses.double()
        moved[clients] += steps.clamp(max=MOST)
        step = weighted_sum(shares, updates).to(updates.dtype)
        return AggregationResult(project_onto_simplex(moved), step, shares)


def project_onto_simplex(values: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Return the nearest vector without negative values that sums to one.

    Source: Duchi et al. (2008), figure 1, https://doi.org/10.1145/1390156.1390191.

    >>> project_onto_simplex(torch.tensor([0.5, 0.5, 3.0]))
    tensor([0., 0., 1.])

    Large values are taken relative to the largest one, which leaves the projection unchanged:

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
