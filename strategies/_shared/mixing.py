"""What wrappers share: a rule that is given changed updates."""

from abc import ABC
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, InformedRule, RoundContext
from fl_sim.core.errors import require
from fl_sim.core.sums import chunks
from strategies._shared.byzantine import ByzantineRule

WIDTH = 50_000  # columns that are mixed at a time; a power of two would crowd the cache

Mix = Callable[[Float[Tensor, "n c"]], Float[Tensor, "m c"]]


class WrappingRule(InformedRule, ABC):
    """A rule in front of another one, `rule`, whose state and needs are its own."""

    rule: AggregationRule

    @property
    def needs_losses(self) -> bool:
        """Whether the wrapped rule does."""
        return self.rule.needs_losses

    @property
    def root_samples(self) -> int:
        """As many as the wrapped rule wants."""
        return self.rule.root_samples

    @property
    def min_updates(self) -> int:
        """No fewer than the wrapped rule needs."""
        return self.rule.min_updates

    @property
    def max_updates(self) -> int | None:
        """No more than the wrapped rule takes."""
        return self.rule.max_updates

    def initial_state(self, num_parameters: int) -> Any:
        """Return the state of the wrapped rule."""
        return self.rule.initial_state(num_parameters)

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return what the wrapped rule tells the clients."""
        return self.rule.broadcast(state)

    def decide_empty(
        self, state: Any, num_parameters: int, context: RoundContext
    ) -> AggregationResult | None:
        """Return what the wrapped rule makes of a round for which nobody was drawn."""
        return self.rule.decide_empty(state, num_parameters, context)


class RobustWrappingRule(WrappingRule, ByzantineRule, ABC):
    """A wrapper that withstands `num_byzantine` clients, where the rule in it does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = self.rule.num_attackers()
        allowed = f"at least num_byzantine, which is {self.num_byzantine}"
        fits = inner is None or inner >= self.num_byzantine
        require(fits, "rule.num_byzantine", allowed, inner)

    def with_num_attackers(self, num_attackers: int) -> AggregationRule:
        """Replace the field, and move that of the wrapped rule by as much."""
        wrapper: Any = self
        inner, more = self.rule.num_attackers(), num_attackers - self.num_byzantine
        rule = self.rule if inner is None else self.rule.with_num_attackers(inner + more)
        return replace(wrapper, num_byzantine=num_attackers, rule=rule)  # type: ignore[no-any-return]

    @property
    def min_updates(self) -> int:
        """2 f + 1, and no fewer than the rule needs."""
        return max(2 * self.num_byzantine + 1, self.rule.min_updates)


def make_scaling(scales: Float[Tensor, " n"]) -> Mix:
    """Return what multiplies every update by its factor, in float64."""

    def mix(part: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        return (scales[:, None] * part).to(part.dtype)

    return mix


def apply_scales(decision: AggregationResult, scales: Float[Tensor, " n"]) -> AggregationResult:
    """Return a decision about shortened updates as one about what they were before."""
    combined = scales if decision.scales is None else scales * decision.scales
    return AggregationResult(decision.state, decision.step, decision.shares, combined)


def decide_mixed(
    rule: AggregationRule,
    state: Any,
    mix: Mix,
    updates: Float[Tensor, "n p"],
    weights: Float[Tensor, " m"],
    context: RoundContext,
) -> AggregationResult:
    """Return what `rule` makes of mixed updates.

    A coordinate-wise rule gets some columns at a time, so that the mixed updates never exist as
    a whole.

    Args:
        rule: what is wrapped.
        state: the state of `rule`.
        mix: returns the mixed updates, in their type, from some columns of the updates.
        updates: one row a client.
        weights: one for each mixed update.
        senders: of the mixed updates.
    """
    if not rule.coordinatewise:
        mixed = updates.new_empty(len(weights), updates.shape[1])
        for columns in chunks(updates.shape[1], WIDTH):
            mixed[:, columns] = mix(updates[:, columns])
        return rule.decide(state, mixed, weights, context)
    step, used = torch.empty_like(updates[0]), torch.zeros(len(weights), dtype=torch.float64)
    for columns in chunks(updates.shape[1], WIDTH):
        part = rule.decide(state, mix(updates[:, columns]), weights, context)
        step[columns] = part.step
        used += (columns.stop - columns.start) * _fill_shares(part.shares, len(weights))
    return AggregationResult(
        state, step, None if bool(used.isnan().any()) else used / updates.shape[1]
    )


def _fill_shares(shares: Float[Tensor, " m"] | None, count: int) -> Float[Tensor, " m"]:
    return torch.full((count,), torch.nan) if shares is None else shares


def trace_back(decision: AggregationResult, mixture: Float[Tensor, "m n"]) -> AggregationResult:
    """Return a decision about mixed updates as one about those that they were mixed from.

    An update has a part in the share of each mixture that it is in, and is shortened as much as
    those mixtures are on average.

    Args:
        decision: about the mixtures.
        mixture: the share of each update in each mixture; no update is left out of all.
    """
    shares, scales = decision.shares, decision.scales
    return AggregationResult(
        decision.state,
        decision.step,
        None if shares is None else shares @ mixture,
        None if scales is None else scales @ mixture / mixture.sum(0),
    )
