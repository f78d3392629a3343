"""Adapter that makes a Flower strategy of any aggregation rule."""

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
    """A Flower strategy that aggregates by one of this project's rules, for any Flower app.

    Clients send parameters; the rule gets their differences to the global ones. The weights are
    the `num-examples` of the replies. In this project's own loop these are the server's counts, so
    that a client cannot gain influence by a false claim.

    >>> from strategies.median import CoordinateMedian
    >>> strategy = RuleStrategy(CoordinateMedian(), fraction_evaluate=0.0)
    """

    def __init__(self, rule: AggregationRule, **flower_options: Any) -> None:
        """Wrap `rule`; the options are those of Flower's FedAvg, such as `fraction_train`."""
        super().__init__(**flower_options)
        self.rule = rule
        self.rule_state: Any = None
        self.global_arrays: ArrayRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Store the global parameters, and choose clients as FedAvg does."""
        if self.global_arrays is None:
            sizes = (torch.Size(shape).numel() for shape in _get_shapes(arrays).values())
            self.rule_state = self.rule.initial_state(sum(sizes))
        self.global_arrays = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the global parameters after the rule's step, and the mean metrics."""
        valid, _ = self._check_and_log_replies(list(replies), is_train=True)
        if not valid or self.global_arrays is None:
            return None, None
        shapes = _get_shapes(self.global_arrays)
        start = from_record(self.global_arrays, shapes)
        contents = [message.content for message in valid]
        received = [from_record(find_arrays(content)[1], shapes) for content in contents]
        examples = [float(self._num_examples(message)) for message in valid]
        updates = torch.stack(received).sub_(start)
        weights = torch.tensor(examples, dtype=torch.float64)
        # Only the round is known, which rules need as a label of their random draws.
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
    """Return a Flower strategy as it is, and a rule wrapped in a `RuleStrategy`."""
    if isinstance(strategy, Strategy):
        return strategy
    return RuleStrategy(strategy, min_train_nodes=1, min_available_nodes=1, min_evaluate_nodes=1)


def _get_shapes(arrays: ArrayRecord) -> Shapes:
    return {name: tuple(array.shape) for name, array in arrays.items()}
