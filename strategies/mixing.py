"""What pre-aggregations share: a rule that is given mixed updates."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationRule
from fl_sim.errors import require
from fl_sim.sums import chunks


def aggregate_mixed(
    rule: AggregationRule,
    state: Any,
    mix: Callable[[Float[Tensor, "n c"]], Float[Tensor, "m c"]],
    updates: Float[Tensor, "n p"],
    weights: Float[Tensor, " m"],
) -> tuple[Any, Float[Tensor, " p"]]:
    """Return what `rule` makes of mixed updates.

    Mixing is done in float64, and the mixed updates have the type of the updates. A
    coordinate-wise rule gets a few columns at a time, so that they never exist as a whole.

    Args:
        rule: what is wrapped.
        state: the state of `rule`.
        mix: returns the mixed updates, from a few columns of the updates in float64.
        updates: one row a client.
        weights: one for each mixed update.
    """
    if rule.coordinatewise:
        step = torch.empty_like(updates[0])
        for columns in chunks(updates.shape[1]):
            part = mix(updates[:, columns].double()).to(updates.dtype)
            step[columns] = rule.aggregate(state, part, weights)[1]
        return state, step
    mixed = updates.new_empty(len(weights), updates.shape[1])
    for columns in chunks(updates.shape[1]):
        mixed[:, columns] = mix(updates[:, columns].double())
    return rule.aggregate(state, mixed, weights)


def check_attackers(rule: AggregationRule, num_byzantine: int) -> None:
    """Raise a `FieldError` where a wrapped rule survives fewer attackers than its wrapper."""
    require(num_byzantine >= 0, "num_byzantine", "at least 0", num_byzantine)
    inner = getattr(rule, "num_byzantine", num_byzantine)
    allowed = f"at least num_byzantine, which is {num_byzantine}"
    require(inner >= num_byzantine, "rule.num_byzantine", allowed, inner)
