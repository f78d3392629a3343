"""Exact aggregation of low-rank changes: means of the factors, and the rest in the base."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from strategies._shared.folding import average_updates, fold_products


@final
@dataclass(frozen=True)
class FedExLoRA(InformedRule):
    """The mean of the updates, with the error that it makes in products added to frozen weights.

    With the low-rank changes s B_i A_i of clients i, the mean of the factors gives mean(B) mean(A),
    which is not the mean of the products. The rest, s (mean(B A) - mean(B) mean(A)), is added to
    the frozen weight, so that the global model has the mean of the clients' weights exactly.
    Clients go on from the mean factors. The frozen weights are sent down in every round, not up;
    other parameters, such as the head, get the mean. For `model.tune="lora"`; tolerates no
    attacker.

    Source: Singhal et al. (2024), FedEx-LoRA, https://arxiv.org/abs/2410.09432.

    Attributes:
        weighted: Whether clients are weighted by the size of their shard; False: equally, as in the
            paper.
    """

    changes_base: ClassVar[bool] = True

    weighted: bool = True

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the mean, and the changes of the frozen weights."""
        self.check_count(updates)
        shares, step = average_updates(updates, weights, self.weighted)
        base = fold_products(shares, updates, step, context)
        return AggregationResult(state, step, shares, base=base)
