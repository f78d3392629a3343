"""Base class of the rules that tolerate a given number of Byzantine clients."""

from abc import ABC
from dataclasses import replace
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, InformedRule
from fl_sim.core.distances import equal_shares
from fl_sim.core.errors import require_at_least
from fl_sim.core.sums import weighted_sum


def average(
    state: Any, updates: Float[Tensor, "n p"], chosen: Int64[Tensor, " m"]
) -> AggregationResult:
    """Return the unweighted mean of the chosen updates as an aggregation result."""
    shares = equal_shares(chosen, len(updates))
    return AggregationResult(state, weighted_sum(shares, updates).to(updates.dtype), shares)


class ByzantineRule(InformedRule, ABC):
    """A rule with a field `num_byzantine`, the number f of attackers it tolerates."""

    num_byzantine: int

    @property
    def min_updates(self) -> int:
        """2 f + 1: fewer than half of the clients may be attackers."""
        return 2 * self.num_byzantine + 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "num_byzantine")

    def num_attackers(self) -> int:
        """Return `num_byzantine`."""
        return self.num_byzantine

    def with_num_attackers(self, num_attackers: int) -> AggregationRule:
        """Return the rule with another `num_byzantine`."""
        rule: Any = self
        return replace(rule, num_byzantine=num_attackers)  # type: ignore[no-any-return]
