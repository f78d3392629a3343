"""Aggregation by one of Flower's own strategies, which sees messages and replies."""

import math
from dataclasses import replace
from typing import Any

from flwr.app import ConfigRecord, Message
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import AggregationRule, Failure, RoundContext, Update
from fl_sim.flower.compat import ensure_node_identity, seed_globals
from fl_sim.flower.records import Shapes, find_arrays, from_record, to_record
from fl_sim.flower.roster import ClientRoster, make_replies
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.server import Advance, KnownRule, RuleServer, Server
from fl_sim.training.tasks import RoundConfig
from fl_sim.training.update_checks import check_metrics, require_common_metrics


class FlowerServer(Server):
    """Aggregates by a strategy of Flower's, which sees messages and replies."""

    def __init__(self, strategy: Strategy, shapes: Shapes, seed: int) -> None:
        """Use a strategy that remembers nothing yet."""
        ensure_node_identity()  # whoever makes one of Flower's messages has to be
        self.strategy, self.shapes, self.seed = strategy, shapes, seed
        self.instructions: list[Message] = []

    def plan(
        self, config: RoundConfig, context: RoundContext, weights: Float[Tensor, " n"]
    ) -> RoundConfig:
        """Ask those whom the strategy asks; nothing is asked of it where nobody is there."""
        if not len(weights):
            self.instructions = []
            return config
        arrays = to_record(config.parameters, self.shapes)
        roster = ClientRoster(context.clients.tolist())
        with seed_globals(self.seed, "strategy", config.round):
            self.instructions = list(
                self.strategy.configure_train(config.round, arrays, ConfigRecord(), roster)
            )
        changed = config
        for message in self.instructions[:1]:
            values = from_record(find_arrays(message.content)[1], self.shapes)
            told = dict(message.content.config_records.get("config", ConfigRecord()))
            changed = replace(changed, parameters=values, flower_config=told)
        asked = sorted(message.metadata.dst_node_id for message in self.instructions)
        return replace(changed, clients=asked, factors=[1.0] * len(asked))

    def advance(
        self, config: RoundConfig, round_updates: RoundUpdates, context: RoundContext
    ) -> Advance:
        """Let the strategy aggregate; where it gives nothing back, nothing changes."""
        if not config.clients:
            return config.parameters, None
        assert round_updates.deltas is not None
        received = [config.parameters + row for row in round_updates.deltas]
        updates = _fill_missing_metrics(round_updates.updates)
        replies = make_replies(updates, received, self.instructions, self.shapes)
        with seed_globals(self.seed, "strategy", config.round, "aggregate"):
            arrays, _ = self.strategy.aggregate_train(config.round, replies)
        if arrays is None:
            return config.parameters, None
        return from_record(arrays, self.shapes), None

    def reveal_rule(self) -> KnownRule:
        """Return nothing: a strategy of Flower's cannot be asked what it would do."""
        return None, None

    def screen(
        self, round_num: int, round_updates: RoundUpdates, idle: frozenset[int]
    ) -> RoundUpdates:
        """Leave out clients whose metrics a strategy may stumble over: it reads what it likes."""
        key = getattr(self.strategy, "train_loss_key", "")  # by which QFedAvg weighs
        updates: list[Update | Failure] = [
            update if update.client in idle else check_metrics(round_num, update, key)
            for update in round_updates.updates
        ]
        answers = require_common_metrics(round_num, updates)
        causes = {row: a.cause for row, a in enumerate(answers) if isinstance(a, Failure)}
        return round_updates.drop(round_num, causes) if causes else round_updates

    def state_dict(self) -> Any:
        """Return what the strategy keeps; its functions come from the experiment."""
        return _get_state(self.strategy)

    def load_state_dict(self, content: Any) -> None:
        """Put it back."""
        _load_state(self.strategy, content)


def make_server(
    strategy: AggregationRule | Strategy, parameters: Tensor, shapes: Shapes, seed: int
) -> Server:
    """Return the server's side for a strategy of either kind."""
    if isinstance(strategy, Strategy):
        return FlowerServer(strategy, shapes, seed)
    return RuleServer(strategy, len(parameters))


def _fill_missing_metrics(updates: list[Update]) -> list[Update]:
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


def _get_state(strategy: Strategy) -> dict[str, Any]:
    return {
        name: _get_state(value) if isinstance(value, Strategy) else value
        for name, value in vars(strategy).items()
        if not callable(value)
    }


def _load_state(strategy: Strategy, remembered: dict[str, Any]) -> None:
    for name, value in remembered.items():
        own = getattr(strategy, name, None)
        if isinstance(own, Strategy):
            _load_state(own, value)
        else:
            setattr(strategy, name, value)
