"""The server's side of a round: a rule of ours, or a strategy of Flower's."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from flwr.app import ConfigRecord, Message
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import (
    AggregationRule,
    Decision,
    Draw,
    Failure,
    LinearRule,
    Senders,
    Update,
)
from fl_sim.engine.compat import be_somebody, seeded_globals
from fl_sim.engine.messages import Roll, as_replies
from fl_sim.engine.orders import Order
from fl_sim.engine.pile import Collected
from fl_sim.engine.update_checks import metrics_are_usable, with_usual_metrics
from fl_sim.engine.wire import Shapes, from_record, the_arrays, to_record


@dataclass(frozen=True, eq=False)
class Plan:
    """What a server wants of a round: the order, who gets it, and their factors in the sum."""

    order: Order
    clients: list[int]
    factors: list[float]


class KnownRule(NamedTuple):
    """What attackers know of a server's defence: its rule and that one's state, or nothing."""

    rule: AggregationRule | None = None
    state: Any = None


class Server(ABC):
    """Plans a round, and makes the next parameters of what comes back."""

    @abstractmethod
    def plan(self, order: Order, senders: Senders, weights: Float[Tensor, " n"]) -> Plan:
        """Return what the round is to be, for the senders that are there."""

    @abstractmethod
    def advance(
        self, plan: Plan, collected: Collected, senders: Senders
    ) -> tuple[Float[Tensor, " p"], Decision | None]:
        """Return the next parameters, and what was decided about each update."""

    def screened(self, number: int, collected: Collected, idle: frozenset[int]) -> Collected:
        """Return what it can aggregate; what it cannot is a failure of its client.

        Args:
            number: of the round.
            collected: what came in.
            idle: clients that have nothing to train on.
        """
        return collected

    @abstractmethod
    def known_rule(self) -> KnownRule:
        """Return what attackers that know the server's defence may see of it."""

    @abstractmethod
    def remembered(self) -> Any:
        """Return what the server has to remember: a tree of tensors and plain values."""

    @abstractmethod
    def remember(self, content: Any) -> None:
        """Put back what `remembered` gave."""


class RuleServer(Server):
    """Aggregates by one of our rules."""

    def __init__(self, rule: AggregationRule, num_parameters: int) -> None:
        """Start with the rule's first state."""
        self.rule, self.state = rule, rule.initial_state(num_parameters)

    def plan(self, order: Order, senders: Senders, weights: Float[Tensor, " n"]) -> Plan:
        """Ask everybody; a linear rule has updates added up where they are made."""
        factors = [1.0] * len(weights)
        if len(weights) and order.adds_up and isinstance(self.rule, LinearRule):
            factors = self.rule.coefficients(weights, senders).tolist()
        changed = replace(
            order,
            received=self.rule.broadcast(self.state),
            adds_up=order.adds_up and isinstance(self.rule, LinearRule),
            needs_losses=self.rule.needs_losses,
            config={"server-round": order.round},
        )
        return Plan(changed, senders.clients.tolist(), factors)

    def advance(
        self, plan: Plan, collected: Collected, senders: Senders
    ) -> tuple[Float[Tensor, " p"], Decision | None]:
        """Take the rule's step."""
        weights, start = collected.weights, plan.order.parameters
        if not plan.clients:
            empty = self.rule.decide_empty(self.state, len(start), senders)
            if empty is None:
                return start, None
            decision = empty
        elif collected.rows is not None:
            decision = self.rule.decide(self.state, collected.rows, weights, senders)
        else:
            decision = self._finished(plan, collected, senders)
        self.state = decision.state
        return start + decision.step, decision

    def _finished(self, plan: Plan, collected: Collected, senders: Senders) -> Decision:
        """Decide about a sum. Where clients failed, the factors of the others were too small."""
        assert isinstance(self.rule, LinearRule)
        assert collected.total is not None
        self.rule.check_count(torch.empty(len(collected.updates), 0))
        shares = self.rule.coefficients(collected.weights, senders)
        ordered = dict(zip(plan.clients, plan.factors, strict=True))
        missing = float(shares[0]) / ordered[collected.updates[0].client]
        total = collected.total if missing == 1 else collected.total * missing
        state, step = self.rule.finish(self.state, total)
        return Decision(state, step.float(), shares)

    def known_rule(self) -> KnownRule:
        """Return the rule, and its state."""
        return KnownRule(self.rule, self.state)

    def remembered(self) -> Any:
        """Return the rule's state."""
        return self.state

    def remember(self, content: Any) -> None:
        """Put the rule's state back."""
        self.state = content


class FlowerServer(Server):
    """Aggregates by a strategy of Flower's, which sees messages and replies."""

    def __init__(self, strategy: Strategy, shapes: Shapes, seed: int) -> None:
        """Use a strategy that remembers nothing yet."""
        be_somebody()  # whoever makes one of Flower's messages has to be
        self.strategy, self.shapes, self.seed = strategy, shapes, seed
        self.instructions: list[Message] = []

    def plan(self, order: Order, senders: Senders, weights: Float[Tensor, " n"]) -> Plan:
        """Ask those whom the strategy asks; nothing is asked of it where nobody is there."""
        if not len(weights):
            self.instructions = []
            return Plan(replace(order, adds_up=False), [], [])
        arrays, roll = to_record(order.parameters, self.shapes), Roll(senders.clients.tolist())
        with seeded_globals(self.seed, "strategy", order.round):
            self.instructions = list(
                self.strategy.configure_train(order.round, arrays, ConfigRecord(), roll)
            )
        changed = replace(order, adds_up=False)
        for message in self.instructions[:1]:
            values = from_record(the_arrays(message.content)[1], self.shapes)
            config = dict(message.content.config_records.get("config", ConfigRecord()))
            changed = replace(changed, parameters=values, config=config)
        asked = sorted(message.metadata.dst_node_id for message in self.instructions)
        return Plan(changed, asked, [1.0] * len(asked))

    def advance(
        self, plan: Plan, collected: Collected, senders: Senders
    ) -> tuple[Float[Tensor, " p"], Decision | None]:
        """Let the strategy aggregate; where it gives nothing back, nothing changes."""
        if not plan.clients:
            return plan.order.parameters, None
        assert collected.rows is not None
        received = [plan.order.parameters + row for row in collected.rows]
        updates = _with_mean_metrics(collected.updates)
        replies = as_replies(updates, received, self.instructions, self.shapes)
        with seeded_globals(self.seed, "strategy", plan.order.round, "aggregate"):
            arrays, _ = self.strategy.aggregate_train(plan.order.round, replies)
        if arrays is None:
            return plan.order.parameters, None
        return from_record(arrays, self.shapes), None

    def known_rule(self) -> KnownRule:
        """Return nothing: a strategy of Flower's cannot be asked what it would do."""
        return KnownRule()

    def screened(self, number: int, collected: Collected, idle: frozenset[int]) -> Collected:
        """Leave out clients whose metrics a strategy may stumble over: it reads what it likes."""
        key = getattr(self.strategy, "train_loss_key", "")  # by which QFedAvg weighs
        updates: list[Update | Failure] = [
            update if update.client in idle else metrics_are_usable(number, update, key)
            for update in collected.updates
        ]
        answers = with_usual_metrics(number, updates)
        causes = {row: a.cause for row, a in enumerate(answers) if isinstance(a, Failure)}
        return collected.without(number, causes) if causes else collected

    def remembered(self) -> Any:
        """Return what the strategy keeps; its functions come from the experiment."""
        return _memory_of(self.strategy)

    def remember(self, content: Any) -> None:
        """Put it back."""
        _restore(self.strategy, content)


def server_for(
    strategy: AggregationRule | Strategy, parameters: Tensor, shapes: Shapes, seed: int
) -> Server:
    """Return the server's side for a strategy of either kind."""
    if isinstance(strategy, Strategy):
        return FlowerServer(strategy, shapes, seed)
    return RuleServer(strategy, len(parameters))


def senders_of(
    clients: list[int],
    local_steps: list[int],
    num_clients: int,
    number: int,
    seed: int,
    draw: Draw | None = None,
) -> Senders:
    """Return what is known of clients before they have answered."""
    expected = float(draw.expected) if draw and draw.sampling == "poisson" else None
    unknown = torch.full((len(clients),), torch.nan, dtype=torch.float64)
    steps = torch.tensor(local_steps, dtype=torch.float64)
    numbers = torch.tensor(clients, dtype=torch.int64)
    return Senders(numbers, num_clients, number, seed, steps, unknown, expected=expected)


def _with_mean_metrics(updates: list[Update]) -> list[Update]:
    """Return updates in which whoever measured nothing tells the mean of the others' metrics."""
    found: dict[str, list[float]] = {}
    for update in updates:
        for name, value in update.metrics.items():
            found.setdefault(name, []).extend([] if math.isnan(value) else [value])
    means = {name: math.fsum(own) / len(own) for name, own in found.items() if own}
    return [
        replace(
            u, metrics={n: means.get(n, v) if math.isnan(v) else v for n, v in u.metrics.items()}
        )
        for u in updates
    ]


def _memory_of(strategy: Strategy) -> dict[str, Any]:
    return {
        name: _memory_of(value) if isinstance(value, Strategy) else value
        for name, value in vars(strategy).items()
        if not callable(value)
    }


def _restore(strategy: Strategy, remembered: dict[str, Any]) -> None:
    for name, value in remembered.items():
        own = getattr(strategy, name, None)
        if isinstance(own, Strategy):
            _restore(own, value)
        else:
            setattr(strategy, name, value)
