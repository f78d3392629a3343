"""Aggregation rules of the server, as pure functions of updates."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts.privacy import Draw, Releases
from fl_sim.core.serialization import TypeChecked
from fl_sim.core.sums import weighted_sum

Updates = Float[Tensor, "n p"]  # one row per client
Weights = Float[Tensor, " n"]


@dataclass(frozen=True)
class LowRankPlace:
    """Place of a low-rank change s B A of a frozen weight in the vector of parameters.

    Attributes:
        base: Name of the frozen weight among the buffers of the global model.
        shape: Its shape.
        down: Places of the factor A, `[rank, inputs]`.
        up: Places of the factor B, `[outputs, rank]`.
        rank: Number of rows of A and columns of B.
        scaling: The factor s.
    """

    base: str
    shape: tuple[int, ...]
    down: slice
    up: slice
    rank: int
    scaling: float


@dataclass(frozen=True, eq=False)
class RoundContext:
    """Knowledge of the server about a round's updates, in client order.

    Attributes:
        clients: Client that sent each update.
        num_clients: Number of clients in the federation.
        round: Number of the round, from 1.
        seed: Seed of the run, for rules that draw: `generator(context.seed, "name",
            context.round)`.
        local_steps: Optimiser steps of each client, counted by the server.
        losses: Loss of the global model on each client's shard before training; NaN unless the
            rule sets `needs_losses`.
        sent: Further vectors of each client, by name.
        reference: Update that the server trained on its root images; None unless the rule sets
            `root_samples`.
        parameters: Parameters of the global model before the round; None if unknown.
        expected: Average number of clients under Poisson participation; None if the number is
            fixed.
        low_rank: Places of the low-rank changes whose frozen weight the rule may change; empty
            unless the rule sets `changes_base`.
        shapes: Shapes of the parameters by name, in the order of an update; empty if unknown.
    """

    clients: Int64[Tensor, " n"]
    num_clients: int
    round: int
    seed: int
    local_steps: Float[Tensor, " n"]
    losses: Float[Tensor, " n"]
    sent: Mapping[str, Float[Tensor, "n p"]] = field(default_factory=dict)
    reference: Float[Tensor, " p"] | None = None
    parameters: Float[Tensor, " p"] | None = None
    expected: float | None = None
    low_rank: tuple[LowRankPlace, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def select(self, rows: Int64[Tensor, " m"]) -> "RoundContext":
        """Return the context of the updates at some positions, in the given order."""
        return replace(
            self,
            clients=self.clients[rows],
            local_steps=self.local_steps[rows],
            losses=self.losses[rows],
            sent={name: vectors[rows] for name, vectors in self.sent.items()},
        )

    @classmethod
    def anonymous(cls, count: int) -> "RoundContext":
        """Return the context of unknown clients: numbered, one step each, equal losses."""
        ones = torch.ones(count, dtype=torch.float64)
        return cls(torch.arange(count), count, 1, 0, ones, ones)


@dataclass(frozen=True, eq=False)
class AggregationResult:
    """Result of a rule for one round.

    Attributes:
        state: State for the next round.
        step: Change to add to the global parameters.
        shares: Share of each update in the step, in client order: its coefficient in a weighted
            mean, or the share of coordinates at which a coordinate-wise rule used it; 0 if it was
            excluded. None if the rule does not report shares.
        scales: Factor by which each update was clipped first; None if the rule does not clip.
        base: Change to add to frozen weights, by the name in `LowRankPlace.base`; empty unless the
            rule sets `changes_base`.
    """

    state: Any
    step: Float[Tensor, " p"]
    shares: Float[Tensor, " n"] | None = None
    scales: Float[Tensor, " n"] | None = None
    base: Mapping[str, Tensor] = field(default_factory=dict)


class AggregationRule(TypeChecked, ABC):
    """Aggregates updates into a step, as a pure function of state, updates and weights.

    Updates are differences to the global parameters, in client order; sums are accumulated
    in float64. The state is a tree of tensors, numbers, strings and None.

    Attributes:
        coordinatewise: Whether the rule is stateless and each coordinate of its step depends only
            on the weights and that coordinate of the updates. A wrapping rule may then pass it
            some coordinates at a time.
        changes_base: Whether the rule changes the frozen weights below low-rank changes. They are
            then part of the global model and sent down with it, and the rule cannot be wrapped.
        tune: The value of `model.tune` that selects the rule: its clients send statistics, which
            `solve` turns into a head. Empty for rules of trained networks.
        exceptions: Reason for each law of the conformance tests that the rule does not keep:
            `unanimous`, `order`, `translation`, `scale`, `shares` or `left out`.
    """

    exceptions: ClassVar[Mapping[str, str]] = {}
    coordinatewise: ClassVar[bool] = False
    changes_base: ClassVar[bool] = False
    tune: ClassVar[str] = ""

    @property
    def linear(self) -> "LinearRule | None":
        """The rule that gives the same step as a weighted sum of the updates; None: it has none.

        An engine then sums the updates in the worker that makes them, instead of stacking them.
        """
        return None

    @property
    def first_rounds(self) -> tuple[int, ...]:
        """Rounds from which on another rule aggregates; only the first one, for most rules."""
        return (1,)

    def at_round(self, round_num: int) -> "AggregationRule":
        """Return the rule that aggregates a round: itself, unless it changes with the round."""
        return self

    def get_state(self, state: Any, round_num: int) -> Any:
        """Return the state of the rule of a round: all of it, unless the rule changes."""
        return state

    def set_state(self, state: Any, round_num: int, new: Any) -> Any:
        """Return the state with that of the rule of a round replaced."""
        return new

    @property
    def needs_losses(self) -> bool:
        """True if the rule reads `RoundContext.losses`."""
        return False

    @property
    def root_samples(self) -> int:
        """Number of clean images that the server holds and trains on itself; 0 by default."""
        return 0

    def num_attackers(self) -> int | None:
        """Return the number of attackers that the rule is set for; None if it has no such field."""
        return None

    def with_num_attackers(self, num_attackers: int) -> "AggregationRule":
        """Return the rule set for another number of attackers; itself if it has no such field."""
        return self

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return the vectors that clients receive beside the model, by name."""
        return {}

    @property
    def min_updates(self) -> int:
        """Fewest updates for which the rule is defined."""
        return 1

    @property
    def max_updates(self) -> int | None:
        """Most updates that the rule can aggregate; None: any number."""
        return None

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return the noisy releases about clients so far; None if it promises no privacy.

        The accountant computes the rows `epsilon` of group `clients` from them.

        Args:
            draws: Sampling of clients in each round so far, in order.

        Raises:
            RequestError: If there is noise, but no guarantee is known.
        """
        return None

    def initial_state(self, num_parameters: int) -> Any:
        """Return the state before the first round; None for a stateless rule."""
        return None

    @abstractmethod
    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the next state and the step to add to the global parameters.

        Args:
            state: State from the previous call, or `initial_state`.
            updates: One finite row per client, in client order.
            weights: Positive weights, by default the shard sizes that the server counts.

        Raises:
            ValueError: If there are fewer rows than `min_updates`.
        """

    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the aggregation with the shares and scales of each update.

        By default it calls `aggregate`, ignores the context and reports no shares.
        """
        return AggregationResult(*self.aggregate(state, updates, weights))

    def decide_empty(
        self, state: Any, num_parameters: int, context: RoundContext
    ) -> AggregationResult | None:
        """Return the result of a round for which no client was drawn; None: nothing changes.

        A private rule still adds its noise, since the number of drawn clients is secret.
        """
        return None

    def solve(
        self,
        parameters: Float[Tensor, " p"],
        shapes: Mapping[str, tuple[int, ...]],
        num_examples: int,
    ) -> Float[Tensor, " p"]:
        """Return the next global parameters, given those that the step leads to.

        By default they are the same. A rule with `tune` solves the statistics among them.

        Args:
            parameters: Global parameters plus the step.
            shapes: Shapes of the parameters, by name.
            num_examples: Number of examples of all clients in the step, as the server counts them.
        """
        return parameters

    def check_count(self, updates: Float[Tensor, "n p"]) -> None:
        """Raise `ValueError` for fewer updates than `min_updates` or more than `max_updates`."""
        if len(updates) < self.min_updates:
            name, needed = type(self).__name__, self.min_updates
            raise ValueError(f"{name} needs at least {needed} updates; got {len(updates)}")
        most = self.max_updates
        if most is not None and len(updates) > most:
            name = type(self).__name__
            raise ValueError(f"{name} takes at most {most} updates; got {len(updates)}")


class InformedRule(AggregationRule):
    """A rule that uses the context of the round, or reports shares of updates."""

    @abstractmethod
    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the aggregation of the updates; arguments are as in `aggregate`."""

    @final
    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the aggregation of updates from unknown clients."""
        decision = self.decide(state, updates, weights, RoundContext.anonymous(len(updates)))
        return decision.state, decision.step


class LinearRule(InformedRule):
    """A rule whose step depends on the updates only through one weighted sum.

    The coefficients are known before any update arrives. If some updates are missing, the
    coefficients of the others keep their proportions.
    """

    @property
    def linear(self) -> "LinearRule":
        """The rule itself."""
        return self

    @abstractmethod
    def coefficients(
        self, weights: Float[Tensor, " n"], context: RoundContext | None = None
    ) -> Float[Tensor, " n"]:
        """Return the coefficient of each update in the sum."""

    @abstractmethod
    def finish(self, state: Any, total: Float[Tensor, " p"]) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the next state and the step, from the weighted sum of the updates."""

    @final
    def decide(
        self, state: Any, updates: Updates, weights: Weights, context: RoundContext
    ) -> AggregationResult:
        """Return the aggregation by the weighted sum, in float64."""
        self.check_count(updates)
        shares = self.coefficients(weights.double(), context)
        state, step = self.finish(state, weighted_sum(shares, updates))
        return AggregationResult(state, step.to(updates.dtype), shares)
