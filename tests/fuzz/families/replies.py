"""Replies that a client may send in place of its update."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final
from unittest import mock

import torch
from flwr.serverapp import strategy as flower

from clients.sgd import SgdClient
from fl_sim import Experiment, run
from fl_sim.contracts import Shard, Update
from fl_sim.experiment import Model
from fl_sim.flower import client_app
from strategies.fednova import FedNova
from strategies.median import CoordinateMedian
from strategies.q_fedavg import QFedAvg
from tests.fuzz.families import Family, small_experiment
from tests.fuzz.judge import expect

LIAR = 1
Change = Callable[[Update], Any]
Setting = tuple[Experiment, dict[str, Any]]  # with the options of its runs


def _change_delta(change: Callable[[torch.Tensor], Any]) -> Change:
    return lambda update: replace(update, delta=change(update.delta))  # type: ignore[arg-type]


def _change_field(name: str, *values: Any) -> list[Change]:
    return [lambda update, value=value: replace(update, **{name: value}) for value in values]


def _change_buffers(value: Any) -> Change:
    return lambda update: replace(update, buffers=dict.fromkeys(update.buffers or {"x": 0}, value))


NAN, INF = float("nan"), float("inf")
REFUSED: tuple[Change, ...] = (
    _change_delta(lambda value: value * NAN),
    _change_delta(lambda value: value + INF),
    _change_delta(lambda value: torch.full_like(value, 3.4e38)),
    _change_delta(lambda value: value.double() * 0 + 1e300),
    _change_delta(lambda value: value.half()),
    _change_delta(lambda value: value.to(torch.complex64)),
    _change_delta(lambda value: value[:-1]),
    _change_delta(lambda value: value.long()),
    _change_delta(lambda value: value.reshape(1, -1)),
    _change_delta(lambda value: value.to_sparse()),
    _change_delta(lambda value: value.tolist()),
    _change_delta(lambda value: None),
    _change_delta(lambda value: value.to("meta")),
    _change_buffers(torch.tensor(NAN)),
    _change_buffers(torch.zeros(3, dtype=torch.complex64)),
    _change_buffers(None),
    *_change_field("buffers", None, {"absent": torch.zeros(2)}),
    *_change_field("client", 99, -1, None, "1", 2),
    *_change_field(
        "metrics", None, {1: 2.0}, {"\ud800": 1.0}, {"train_loss": "low"}, {"x": 10**400}
    ),
    *_change_field("memory", None, {"a": object()}, {"a": torch.zeros(1).expand(10**12)}),
    *_change_field("sent", None, {"stranger": torch.zeros(2)}),
    lambda update: None,
    lambda update: "an update",
)
IGNORED: tuple[Change, ...] = (
    *_change_field("num_examples", 10**9, 0, -5, None, NAN),
    *_change_field("norm", NAN, 0.0, 1e30, None),
    lambda update: update,
)
RAISED: tuple[Exception | type[BaseException], ...] = (
    RuntimeError("\ud800"), ValueError("two\nlines"), MemoryError(), SystemExit, RecursionError(),
    KeyError(object()), AssertionError(), StopIteration(), GeneratorExit,
)  # fmt: skip
FLOWERS = flower.FedAvg(min_train_nodes=1, min_available_nodes=1, min_evaluate_nodes=1)


@final
class ClientReplies(Family):
    """Updates of wrong types, shapes and values, and clients that raise."""

    name: ClassVar[str] = "client replies"

    def __init__(self, folder: Path) -> None:
        """Run each rule with an honest client, and without that client."""
        super().__init__(folder)
        rules = [QFedAvg(), FedNova(), CoordinateMedian(), FLOWERS]
        off: dict[str, Any] = {"batch_clients": "off"}
        self.settings = [(small_experiment(strategy=rule), off) for rule in rules]
        self.settings += [
            (small_experiment(), off),
            (small_experiment(model=Model("small_cnn", norm="batch")), off),
            (small_experiment(model=Model("mlp")), {"batch_clients": "on"}),
            (small_experiment(), {"client_app": client_app.app}),
        ]
        self.honest = [self._hash(value) for value in self.settings]
        self.without = [self._hash(value, lambda update: ()) for value in self.settings]

    def _run(self, setting: Setting, change: Change | None = None) -> Any:
        def replies(client: SgdClient, update: Update, shard: Shard) -> Any:
            if shard.client != LIAR or change is None:
                return (update,)
            changed = change(update)
            return changed if isinstance(changed, tuple) and not changed else (changed,)

        out = self.folder / "input" / "runs"
        with mock.patch.object(SgdClient, "replies", replies):
            return run(setting[0], out=out, controls=False, **setting[1])

    def _hash(self, setting: Setting, change: Change | None = None) -> str:
        return str(self._run(setting, change).cells.params_sha256[0])

    def attempt(self, rng: random.Random) -> bool:
        """Send one reply: a refused one is left out, others count as the honest update."""
        place = rng.randrange(len(self.settings))
        draw = rng.random()
        if draw < 0.2:
            change: Change = _raise_error(rng.choice(RAISED))
        elif draw < 0.4:
            change = rng.choice(IGNORED)
        else:
            change = rng.choice(REFUSED)
        results = self._run(self.settings[place], change)
        expect(results.complete, f"one client ended the run: {results.cells.to_dict('records')}")
        value = results.cells.params_sha256[0]
        blamed = set(results.failures.client)
        expect(blamed <= {LIAR}, f"blamed {blamed}")
        if draw < 0.2 or draw >= 0.4:
            trivial = not blamed and value == self.honest[place]  # no buffers to spoil, say
            expect(trivial or value == self.without[place], "another model than without the client")
        else:
            expect(value == self.honest[place], "another model than with the honest update")
        return not blamed


def _raise_error(error: Exception | type[BaseException]) -> Change:
    def change(update: Update) -> Update:
        raise error

    return change
