"""Any aggregation rule as a Flower strategy."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.serverapp.strategy import Strategy

from fl_sim.contracts import AggregationRule, RoundContext
from fl_sim.flower.records import Shapes, find_arrays, from_record, to_record


class RuleStrategy(FlowerFedAvg):
    """A Flower strategy that aggregates by one of our rules; it works in any Flower app.

    Clients send parameters; the rule sees their differences to the global ones. Weights are
    the replies' `num-examples`. In this project's own loop the server has written its own
    shard sizes there, so a client cannot buy influence by claiming many.

    >>> from strategies.median import CoordinateMedian
    >>> strategy = RuleStrategy(CoordinateMedian(), fraction_evaluate=0.0)
    """

    def __init__(self, rule: AggregationRule, **flower_options: Any) -> None:
        """Wrap `rule`; the options are those of Flower's FedAvg, such as `fraction_train`."""
        super().__init__(**flower_options)
        self.rule = rule
        self.rule_state: Any = None
        self.sent: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember the global parameters, and ask as FedAvg does."""
        if self.sent is None:
            sizes = (torch.Size(shape).numel() for shape in _get_shapes(arrays).values())
            self.rule_state = self.rule.initial_state(sum(sizes))
        self.sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the global parameters after the rule's step, and the mean metrics."""
        valid, _ = self._check_and_log_replies(list(replies), is_train=True)
        if not valid or self.sent is None:
            return None, None
        shapes = _get_shapes(self.sent)
        start = from_record(self.sent, shapes)
        contents = [message.content for message in valid]
        received = [from_record(find_arrays(content)[1], shapes) for content in contents]
        examples = [float(self._num_examples(message)) for message in valid]
        updates = torch.stack(received).sub_(start)
        weights = torch.tensor(examples, dtype=torch.float64)
        # Of the senders nothing is known but the round, by which a rule names what it draws.
        context = replace(RoundContext.anonymous(len(updates)), round=server_round)
        result = self.rule.decide(self.rule_state, updates, weights, context)
        self.rule_state, step = result.state, result.step
        metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        return to_record(start + step, shapes), metrics

    def _num_examples(self, message: Message) -> float:
        (metrics,) = message.content.metric_records.values()
        value: Any = metrics[self.weighted_by_key]
        return float(value)


def to_flower_strategy(strategy: AggregationRule | Strategy) -> Strategy:
    """Return `strategy` as Flower wants it: a rule wrapped, a Flower strategy as it is."""
    if isinstance(strategy, Strategy):
        return strategy
    return RuleStrategy(strategy, min_train_nodes=1, min_available_nodes=1, min_evaluate_nodes=1)


def _get_shapes(arrays: ArrayRecord) -> Shapes:
    return {name: tuple(array.shape) for name, array in arrays.items()}
