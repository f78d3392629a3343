"""Stacked aggregation of low-rank changes: their sum goes into the base, and new ones start."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from fl_sim.contracts import AggregationResult, InformedRule, RoundContext, Updates, Weights
from fl_sim.core.seeding import generator
from strategies._shared.folding import average_updates, fold_products


@final
@dataclass(frozen=True)
class FLoRA(InformedRule):
    """The weighted sum of all clients' low-rank changes, added to frozen weights as a whole.

    The factors of n clients, stacked, are a change of rank n r that is the mean of s B_i A_i
    exactly. It goes into the frozen weight, and clients start the next round with new factors: B
    at zero, and a new A drawn as at the start, the same for all. The frozen weights are sent down
    in every round, not up; other parameters, such as the head, get the mean. For
    `model.tune="lora"`; tolerates no attacker.

    Source: Wang et al. (2024), FLoRA, section 3, https://arxiv.org/abs/2409.05976. There clients
    receive the stacked factors, 4 n r (inputs + outputs) bytes a layer, and add the product
    themselves; here they receive the sum, 4 inputs outputs bytes.

    Attributes:
        weighted: Whether clients are weighted by the size of their shard, as in the paper; False:
            equally.
    """

    changes_base: ClassVar[bool] = True

    weighted: bool = True

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the step to new factors, and the changes of the frozen weights."""
        self.check_count(updates)
        shares, step = average_updates(updates, weights, self.weighted)
        rng = generator(context.seed, "flora", context.round)
        for place in context.low_rank:
            assert context.parameters is not None
            start = context.parameters
            step[place.up] = -start[place.up]
            size = place.down.stop - place.down.start
            bound = (size // place.rank) ** -0.5  # of `kaiming_uniform_` with a = sqrt(5)
            drawn = torch.empty(size, dtype=start.dtype).uniform_(-bound, bound, generator=rng)
            step[place.down] = drawn - start[place.down]
        base = fold_products(shares, updates, step, context)
        return AggregationResult(state, step, shares, base=base)
