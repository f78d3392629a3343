"""FoolsGold: down-weighting of clients whose histories are alike."""

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.distances import cosines_from_gram, uncentred_gram_matrix
from fl_sim.core.errors import require_above
from fl_sim.core.sums import weighted_sum


@final
@dataclass(frozen=True)
class FoolsGold(InformedRule):
    """The mean of the updates, with less weight on clients whose histories are alike.

    A client's weight falls with its largest cosine similarity to the sum of past updates of another
    client. Meant for any number of sybils among heterogeneous honest clients. Clients that are
    alike for an honest reason, such as a common class-wise protection, are taken for sybils; if all
    are alike, the model does not move. A single attacker is not detected.

    Source: Fung et al. (2020), algorithm 1, https://arxiv.org/abs/1808.04866, on all parameters.
    The paper adds weighted gradients; clients send whole trainings here, so the step is their
    weighted mean.

    Attributes:
        confidence: Steepness with which weights go from 0 to 1; kappa in the paper.
    """

    confidence: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(self, 0, "confidence")

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the weighted mean; the state is the sum of each client's updates so far."""
        self.check_count(updates)
        if state is None:
            state = updates.new_zeros(context.num_clients, updates.shape[1])
        history = state.index_add(0, context.clients, updates.to(state.dtype))
        cosines = cosines_from_gram(uncentred_gram_matrix(history[context.clients]))
        counted = compute_uniqueness(cosines, self.confidence)
        shares = counted / counted.sum() if float(counted.sum()) > 0 else counted
        return AggregationResult(history, weighted_sum(shares, updates).to(updates.dtype), shares)


def compute_uniqueness(cosines: Float[Tensor, "n n"], confidence: float) -> Float[Tensor, " n"]:
    """Return the weight of each client, in [0, 1]: 1 for one unlike all others.

    Pardoning: the cosine of an honest client to a sybil shrinks by the ratio of their largest
    similarities, so that honest clients that merely resemble a sybil keep their weight.

    Args:
        cosines: Cosines between the histories of the clients.
        confidence: Steepness of the logit.
    """
    if len(cosines) == 1:
        return torch.ones_like(cosines[0])
    others = cosines.clone().fill_diagonal_(-torch.inf)
    nearest = others.max(1).values
    pardon = torch.where(nearest[None, :] > nearest[:, None], nearest[:, None] / nearest, 1.0)
    pardon = torch.where(nearest[None, :] == 0, 1.0, pardon)
    likeness = (cosines * pardon).fill_diagonal_(-torch.inf).max(1).values
    unlike = (1 - likeness).clamp(0, 1)
    if float(unlike.max()) == 0:
        return unlike
    unlike = unlike / unlike.max()
    return (confidence * (unlike.logit() + 0.5)).clamp(0, 1)
