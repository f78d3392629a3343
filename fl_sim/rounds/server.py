"""The server of a round: its requests to clients, and the step to the next global model."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationResult, AggregationRule, Draw, RoundContext
from fl_sim.core.device import call_on_device
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.training.tasks import RoundConfig

Advance = tuple[Float[Tensor, " p"], AggregationResult | None]
KnownRule = tuple[AggregationRule | None, Any]  # a rule and its state, or None for both


class Server(ABC):
    """Chooses the settings of a round, and computes the next parameters from its updates."""

    @abstractmethod
    def plan(
        self, config: RoundConfig, context: RoundContext, weights: Float[Tensor, " n"]
    ) -> RoundConfig:
        """Return the complete settings of the round, with the clients to ask and their factors.

        Args:
            config: The settings, without those that the server chooses.
            context: The clients that are present.
            weights: The number of examples of each client, `[n]`.
        """

    @abstractmethod
    def advance(
        self, config: RoundConfig, round_updates: RoundUpdates, context: RoundContext
    ) -> Advance:
        """Return the next parameters, and the aggregation result if the server has one."""

    def screen(
        self, round_num: int, round_updates: RoundUpdates, idle: frozenset[int]
    ) -> RoundUpdates:
        """Return the updates that can be aggregated; others become failures of their clients.

        Args:
            round_num: Number of the round, from 1.
            round_updates: The updates of the round.
            idle: Clients that have nothing to train on.
        """
        return round_updates

    @abstractmethod
    def reveal_rule(self) -> KnownRule:
        """Return the rule and its state, for attackers that know the defence."""

    @abstractmethod
    def state_dict(self) -> Any:
        """Return the server's state: a tree of tensors and plain values."""

    @abstractmethod
    def load_state_dict(self, content: Any) -> None:
        """Restore the state that `state_dict` returned."""


class RuleServer(Server):
    """Aggregates by an aggregation rule of this project."""

    def __init__(self, rule: AggregationRule, num_parameters: int) -> None:
        """Start with the rule's initial state."""
        self.rule, self.state = rule, rule.initial_state(num_parameters)
        self.round = 1

    def plan(
        self, config: RoundConfig, context: RoundContext, weights: Float[Tensor, " n"]
    ) -> RoundConfig:
        """Ask all clients; in a sum, updates have the coefficients of the rule as factors."""
        self.round = config.round
        rule, state = self.reveal_rule()
        factors = [1.0] * len(weights)
        linear = rule.linear
        if len(weights) and config.sum_updates and linear is not None:
            factors = linear.coefficients(weights, context).tolist()
        return replace(
            config,
            received=rule.broadcast(state),
            needs_losses=rule.needs_losses,
            flower_config={"server-round": config.round},
            clients=context.clients.tolist(),
            factors=factors,
        )

    def advance(
        self, config: RoundConfig, round_updates: RoundUpdates, context: RoundContext
    ) -> Advance:
        """Apply the step of the rule, and let it solve statistics if there are any."""
        start = config.parameters
        rule, state = self.reveal_rule()
        if not config.clients:
            empty = rule.decide_empty(state, len(start), context)
            if empty is None:
                return start, None
            result = empty
        elif round_updates.deltas is not None:
            deltas, weights = round_updates.deltas, round_updates.weights
            result = call_on_device(
                rule.decide, state, deltas, weights, context, device=deltas.device
            )
        else:
            result = self._finish_sum(config, round_updates, context)
        self.state = self.rule.set_state(self.state, self.round, result.state)
        num_examples = int(round_updates.weights.sum())
        return rule.solve(start + result.step, context.shapes, num_examples), result

    def _finish_sum(
        self, config: RoundConfig, round_updates: RoundUpdates, context: RoundContext
    ) -> AggregationResult:
        """Return the result of a linear rule from the sum of the updates.

        If clients failed, the factors in the sum were too small: they were computed for all.
        """
        rule, rule_state = self.reveal_rule()
        linear = rule.linear
        assert linear is not None
        assert round_updates.total is not None
        linear.check_count(torch.empty(len(round_updates.updates), 0))
        shares = linear.coefficients(round_updates.weights, context)
        factors = dict(zip(config.clients, config.factors, strict=True))
        correction = float(shares[0]) / factors[round_updates.updates[0].client]
        total = round_updates.total if correction == 1 else round_updates.total * correction
        state, step = linear.finish(rule_state, total)
        return AggregationResult(state, step.to(config.parameters.dtype), shares)

    def reveal_rule(self) -> tuple[AggregationRule, Any]:
        """Return the rule of the round, and its state."""
        return self.rule.at_round(self.round), self.rule.get_state(self.state, self.round)

    def state_dict(self) -> Any:
        """Return the state of the rule."""
        return self.state

    def load_state_dict(self, content: Any) -> None:
        """Restore the state of the rule."""
        self.state = content


def make_context(
    clients: list[int],
    local_steps: list[int],
    num_clients: int,
    round_num: int,
    seed: int,
    draw: Draw | None = None,
) -> RoundContext:
    """Return the context of clients before they have replied."""
    expected = float(draw.expected) if draw and draw.sampling == "poisson" else None
    unknown = torch.full((len(clients),), torch.nan, dtype=torch.float64)
    steps = torch.tensor(local_steps, dtype=torch.float64)
    numbers = torch.tensor(clients, dtype=torch.int64)
    return RoundContext(numbers, num_clients, round_num, seed, steps, unknown, expected=expected)
