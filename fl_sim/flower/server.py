"""Aggregation by one of Flower's own strategies, through the messages and replies it expects."""

import math
from dataclasses import replace
from typing import Any

from flwr.app import ConfigRecord, Message
from flwr.serverapp.strategy import Strategy
from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Failure, RoundContext, Update
from fl_sim.flower.compat import ensure_node_identity, seed_globals
from fl_sim.flower.records import Shapes, find_arrays, from_record, to_record
from fl_sim.flower.roster import ClientRoster, make_replies
from fl_sim.rounds.accumulator import RoundUpdates
from fl_sim.rounds.server import Advance, KnownRule, Server
from fl_sim.training.tasks import RoundConfig
from fl_sim.training.update_checks import check_metrics, require_common_metrics


class FlowerServer(Server):
    """Aggregates by a Flower strategy, through messages and replies."""

    def __init__(self, strategy: Strategy, shapes: Shapes, seed: int) -> None:
        """Start with a strategy that has no state yet."""
        ensure_node_identity()  # Flower's messages require one
        self.strategy, self.shapes, self.seed = strategy, shapes, seed
        self.instructions: list[Message] = []

    def plan(
        self, config: RoundConfig, context: RoundContext, weights: Float[Tensor, " n"]
    ) -> RoundConfig:
        """Ask the clients that the strategy chooses; if none is present, do not call it."""
        if not len(weights):
            self.instructions = []
            return config
        arrays = to_record(config.parameters, self.shapes)
        roster = ClientRoster(context.clients.tolist())
        with seed_globals(self.seed, "strategy", config.round):
            self.instructions = list(
                self.strategy.configure_train(config.round, arrays, ConfigRecord(), roster)
            )
        for message in self.instructions[:1]:
            values = from_record(find_arrays(message.content)[1], self.shapes)
            settings = dict(message.content.config_records.get("config", ConfigRecord()))
            config = replace(config, parameters=values, flower_config=settings)
        asked = sorted(message.metadata.dst_node_id for message in self.instructions)
        return replace(config, clients=asked, factors=[1.0] * len(asked))

    def advance(
        self, config: RoundConfig, round_updates: RoundUpdates, context: RoundContext
    ) -> Advance:
        """Aggregate by the strategy; if it returns nothing, keep the parameters."""
        if not config.clients:
            return config.parameters, None
        assert round_updates.deltas is not None
        received = [config.parameters + row for row in round_updates.deltas.cpu()]
        updates = _fill_missing_metrics(round_updates.updates)
        replies = make_replies(updates, received, self.instructions, self.shapes)
        with seed_globals(self.seed, "strategy", config.round, "aggregate"):
            arrays, _ = self.strategy.aggregate_train(config.round, replies)
        if arrays is None:
            return config.parameters, None
        return from_record(arrays, self.shapes), None

    def reveal_rule(self) -> KnownRule:
        """Return nothing: a Flower strategy cannot be evaluated without changing its state."""
        return None, None

    def screen(
        self, round_num: int, round_updates: RoundUpdates, idle: frozenset[int]
    ) -> RoundUpdates:
        """Drop clients whose metrics could break a strategy, which may read any of them."""
        key = getattr(self.strategy, "train_loss_key", "")  # the loss by which QFedAvg weighs
        updates: list[Update | Failure] = [
            update if update.client in idle else check_metrics(round_num, update, key)
            for update in round_updates.updates
        ]
        answers = require_common_metrics(round_num, updates)
        causes = {row: a.cause for row, a in enumerate(answers) if isinstance(a, Failure)}
        return round_updates.drop(round_num, causes) if causes else round_updates

    def state_dict(self) -> Any:
        """Return the attributes of the strategy, without functions."""
        return _get_state(self.strategy)

    def load_state_dict(self, content: Any) -> None:
        """Restore the attributes that `state_dict` returned."""
        _load_state(self.strategy, content)


def _fill_missing_metrics(updates: list[Update]) -> list[Update]:
    """Return updates with each missing metric replaced by the mean over the other clients."""
    values: dict[str, list[float]] = {}
    for update in updates:
        for name, value in update.metrics.items():
            values.setdefault(name, []).extend([] if math.isnan(value) else [value])
    means = {name: math.fsum(vs) / len(vs) for name, vs in values.items() if vs}
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


def _load_state(strategy: Strategy, state: dict[str, Any]) -> None:
    for name, value in state.items():
        current = getattr(strategy, name, None)
        if isinstance(current, Strategy):
            _load_state(current, value)
        else:
            setattr(strategy, name, value)
