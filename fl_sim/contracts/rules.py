"""The server's plug-in: what it does with updates."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.contracts.privacy import Draw, Releases
from fl_sim.core.sums import weighted_sum


@dataclass(frozen=True, eq=False)
class RoundContext:
    """What the server knows about a round's updates beside the updates, all in client order.

    Attributes:
        clients: who sent each.
        num_clients: number of clients in the federation.
        round: from 1.
        seed: of the run, for rules that draw: `generator(senders.seed, "name", senders.round)`.
        local_steps: optimiser steps that each took, by the server's own count.
        losses: loss of the global model on each sender's shard before it trained; NaN unless
            the rule says `needs_losses`.
        sent: further vectors of each sender, by name.
        reference: the server's own update, on its root images; None unless the rule says
            `root_samples`.
        parameters: of the global model before the round; None where nobody told.
        expected: how many are drawn on average, where their number is itself left to chance
            (Poisson participation); None where a fixed number is asked.
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

    def select(self, rows: Int64[Tensor, " m"]) -> "RoundContext":
        """Return the senders at some positions, in the order given."""
        return replace(
            self,
            clients=self.clients[rows],
            local_steps=self.local_steps[rows],
            losses=self.losses[rows],
            sent={name: vectors[rows] for name, vectors in self.sent.items()},
        )

    @classmethod
    def anonymous(cls, count: int) -> "RoundContext":
        """Return senders of whom nothing is known: numbered, one step each, equal losses."""
        ones = torch.ones(count, dtype=torch.float64)
        return cls(torch.arange(count), count, 1, 0, ones, ones)


@dataclass(frozen=True, eq=False)
class AggregationResult:
    """What a rule made of a round.

    Attributes:
        state: for the next round.
        step: to add to the global parameters.
        shares: how much of the step each update is, in client order: of a weighted mean its
            coefficient, of a coordinate-wise rule the share of coordinates at which the update
            was used; 0 where it was left out. None where the rule does not say.
        scales: the factor by which each update was shortened first; None where none can be.
    """

    state: Any
    step: Float[Tensor, " p"]
    shares: Float[Tensor, " n"] | None = None
    scales: Float[Tensor, " n"] | None = None


class AggregationRule(ABC):
    """What the server does with updates: a pure function in update space.

    Updates are differences to the global parameters, in client order; sums are accumulated
    in float64. The state is a tree of tensors, numbers, strings and None.

    `coordinatewise` says that the rule keeps no state, and that each coordinate of its step
    depends on nothing but the weights and that coordinate of the updates. What wraps it may then
    hand it some coordinates at a time. `needs_losses` asks for `Senders.losses`.
    """

    coordinatewise: ClassVar[bool] = False

    @property
    def needs_losses(self) -> bool:
        """Whether the rule reads the losses of the global model on the senders' shards."""
        return False

    @property
    def root_samples(self) -> int:
        """Number of clean images that the server holds and trains on itself; mostly 0."""
        return 0

    def num_attackers(self) -> int | None:
        """Return how many attackers the rule is to survive; None where no number is set."""
        return None

    def with_num_attackers(self, num_attackers: int) -> "AggregationRule":
        """Return the rule set for another number of attackers; itself where it has none."""
        return self

    def broadcast(self, state: Any) -> dict[str, Tensor]:
        """Return the vectors that clients get beside the model, by name."""
        return {}

    @property
    def min_updates(self) -> int:
        """Fewest updates for which the rule is defined."""
        return 1

    @property
    def max_updates(self) -> int | None:
        """Most updates that the rule can take; None: any number."""
        return None

    def releases(self, draws: Sequence[Draw]) -> Releases | None:
        """Return what has been released of clients by then; None where no privacy is promised.

        An accountant makes an epsilon of it, in rows `epsilon` of group `clients`.

        Args:
            draws: how the clients of each round so far were drawn, in order.

        Raises:
            RequestError: where there is noise, but no guarantee is known.
        """
        return None

    def initial_state(self, num_parameters: int) -> Any:
        """Return the state before the first round; None where the rule keeps none."""
        return None

    @abstractmethod
    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the next state and the step to add to the global parameters.

        Args:
            state: what the previous call returned.
            updates: one row a client, finite, in client order.
            weights: positive; the server's own shard sizes by default.

        Raises:
            ValueError: with fewer rows than `min_updates`.
        """

    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Aggregate knowing who sent what, and say what became of each update.

        A rule that only overrides `aggregate` uses nothing of the senders and explains nothing.
        """
        return AggregationResult(*self.aggregate(state, updates, weights))

    def decide_empty(
        self, state: Any, num_parameters: int, context: RoundContext
    ) -> AggregationResult | None:
        """Return what becomes of a round for which nobody was drawn; None: nothing changes.

        A private rule adds its noise all the same: whether anybody was drawn is a secret.
        """
        return None

    def check_count(self, updates: Float[Tensor, "n p"]) -> None:
        """Raise `ValueError` for fewer updates than the rule needs, or more than it takes."""
        if len(updates) < self.min_updates:
            name, needed = type(self).__name__, self.min_updates
            raise ValueError(f"{name} needs at least {needed} updates; got {len(updates)}")
        most = self.max_updates
        if most is not None and len(updates) > most:
            name = type(self).__name__
            raise ValueError(f"{name} takes at most {most} updates; got {len(updates)}")


class InformedRule(AggregationRule):
    """A rule that uses what is known of the senders, or says what became of each update."""

    @abstractmethod
    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Aggregate, and say what became of each update; see `AggregationRule.aggregate`."""

    @final
    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Decide about updates of unknown senders."""
        decision = self.decide(state, updates, weights, RoundContext.anonymous(len(updates)))
        return decision.state, decision.step


class LinearRule(InformedRule):
    """A rule whose step depends on the updates only through one weighted sum.

    The coefficients are known before any update arrives, so an engine adds updates up as they
    come, where they come, instead of stacking them. Without some of the updates, the
    coefficients of the others keep their proportions.
    """

    @abstractmethod
    def coefficients(
        self, weights: Float[Tensor, " n"], context: RoundContext | None = None
    ) -> Float[Tensor, " n"]:
        """Return the factor of each update in the sum."""

    @abstractmethod
    def finish(self, state: Any, total: Float[Tensor, " p"]) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the next state and the step, from the weighted sum of the updates."""

    @final
    def decide(
        self,
        state: Any,
        updates: Float[Tensor, "n p"],
        weights: Float[Tensor, " n"],
        context: RoundContext,
    ) -> AggregationResult:
        """Sum the updates by their coefficients, in float64, and finish."""
        self.check_count(updates)
        shares = self.coefficients(weights.double(), context)
        state, step = self.finish(state, weighted_sum(shares, updates))
        return AggregationResult(state, step.to(updates.dtype), shares)
