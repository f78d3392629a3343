"""Base classes and helpers for rules that transform the updates and pass them to another rule."""

from abc import ABC
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, InformedRule, RoundContext
from fl_sim.core.errors import require
from fl_sim.core.sums import column_chunks
from strategies._shared.byzantine import ByzantineRule

WIDTH = 50_000  # columns per chunk; a power of two would cause cache conflicts

Mix = Callable[[Float[Tensor, "n c"]], Float[Tensor, "m c"]]


class WrappingRule(InformedRule, ABC):
    """A rule around another one, `rule`, whose state and requirements it takes over."""

    rule: AggregationRule

    @property
    def needs_losses(self) -> bool:
        """True if the wrapped rule needs losses."""
        return self.rule.needs_losses

    @property
    def root_samples(self) -> int:
        """Number of clean images that the wrapped rule needs on the server."""
        return self.rule.root_samples

    @property
    def min_updates(self) -> int:
        """Smallest number of updates that the wrapped rule accepts."""
        return self.rule.min_updates

    @property
    def max_updates(self) -> int | None:
        """Largest number of updates that the wrapped rule accepts."""
        return self.rule.max_updates

    def initial_state(self, num_parameters: int) -> Any:
        """Return the initial state of the wrapped rule."""
        return self.rule.initial_state(num_parameters)

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return the vectors that the wrapped rule sends to the clients."""
        return self.rule.broadcast(state)

    def decide_empty(
        self, state: Any, num_parameters: int, context: RoundContext
    ) -> AggregationResult | None:
        """Return the wrapped rule's result for a round in which no client was sampled."""
        return self.rule.decide_empty(state, num_parameters, context)


class RobustWrappingRule(WrappingRule, ByzantineRule, ABC):
    """A wrapper that tolerates `num_byzantine` clients if the wrapped rule does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = self.rule.num_attackers()
        allowed = f"at least num_byzantine, which is {self.num_byzantine}"
        fits = inner is None or inner >= self.num_byzantine
        require(fits, "rule.num_byzantine", allowed, inner)

    def with_num_attackers(self, num_attackers: int) -> AggregationRule:
        """Return the rule with another `num_byzantine`, shifted by as much in the wrapped rule."""
        wrapper: Any = self
        inner, more = self.rule.num_attackers(), num_attackers - self.num_byzantine
        rule = self.rule if inner is None else self.rule.with_num_attackers(inner + more)
        return replace(wrapper, num_byzantine=num_attackers, rule=rule)  # type: ignore[no-any-return]

    @property
    def min_updates(self) -> int:
        """2 f + 1, and at least as many as the wrapped rule needs."""
        return max(2 * self.num_byzantine + 1, self.rule.min_updates)


def make_scaling(scales: Float[Tensor, " n"]) -> Mix:
    """Return a function that multiplies each update by its factor, in float64."""

    def mix(part: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        return (scales[:, None] * part).to(part.dtype)

    return mix


def apply_scales(decision: AggregationResult, scales: Float[Tensor, " n"]) -> AggregationResult:
    """Return a result for scaled updates, expressed for the updates before scaling."""
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
    """Return the result of `rule` for mixed updates.

    A coordinate-wise rule is given a few columns at a time, so that the mixed updates never exist
    as a whole matrix.

    Args:
        rule: The wrapped rule.
        state: Its state.
        mix: Returns the mixed updates, in their type, for some columns of the updates.
        updates: Updates, one row per client.
        weights: Weights of the mixed updates.
        context: Context of the round for the mixed updates.
    """
    if not rule.coordinatewise:
        mixed = updates.new_empty(len(weights), updates.shape[1])
        for columns in column_chunks(updates, WIDTH):
            mixed[:, columns] = mix(updates[:, columns])
        return rule.decide(state, mixed, weights, context)
    step, used = torch.empty_like(updates[0]), torch.zeros(len(weights), dtype=torch.float64)
    for columns in column_chunks(updates, WIDTH):
        part = rule.decide(state, mix(updates[:, columns]), weights, context)
        step[columns] = part.step
        used += (columns.stop - columns.start) * _fill_shares(part.shares, len(weights))
    return AggregationResult(
        state, step, None if bool(used.isnan().any()) else used / updates.shape[1]
    )


def _fill_shares(shares: Float[Tensor, " m"] | None, count: int) -> Float[Tensor, " m"]:
    return torch.full((count,), torch.nan) if shares is None else shares


def trace_back(decision: AggregationResult, mixture: Float[Tensor, "m n"]) -> AggregationResult:
    """Return a result for mixed updates, expressed for the updates they were mixed from.

    Each update is credited with its part of the share of every mixture that contains it. Its scale
    is the mean of the scales of those mixtures.

    Args:
        decision: Result for the mixtures.
        mixture: Share of each update in each mixture; every update is in at least one.
    """
    shares, scales = decision.shares, decision.scales
    return AggregationResult(
        decision.state,
        decision.step,
        None if shares is None else shares @ mixture,
        None if scales is None else scales @ mixture / mixture.sum(0),
    )
