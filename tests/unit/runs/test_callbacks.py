"""Callbacks: every hook is called, in order, on every engine, and none changes the run."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_sim import Callback, Experiment, Model, run
from fl_sim.contracts import Update
from fl_sim.core.errors import RequestError
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.flower import client_app
from fl_sim.flower.backend import FlowerBackend
from fl_sim.flower.local_grid import LocalGrid
from fl_sim.rounds.callbacks import Phase
from fl_sim.rounds.loop import run_rounds
from fl_sim.rounds.state import RoundOutcome, State
from fl_sim.runs.outputs import hash_state
from fl_sim.runs.replay import replay
from fl_sim.runs.single_run import make_initial_state
from fl_sim.training.client_trainer import make_trainer
from fl_sim.training.tasks import RoundConfig

Maker = Callable[..., Experiment]


class Recorder(Callback):
    """Notes which hooks are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_run_start(self, federation: Federation, state: State) -> None:
        self.calls.append(f"start after {state.round}")

    def on_round_start(self, config: RoundConfig) -> None:
        self.calls.append(f"round {config.round}")

    def on_phase_start(self, phase: Phase) -> None:
        self.calls.append(phase)

    def on_round_end(self, outcome: RoundOutcome) -> None:
        assert {row.metric for row in outcome.rows} > {"accuracy", "loss"}
        self.calls.append(f"end of {outcome.state.round}")

    def on_run_end(self, error: BaseException | None) -> None:
        self.calls.append("finished" if error is None else type(error).__name__)


class Deltas(Callback):
    """Sums the updates of the clients."""

    def __init__(self) -> None:
        self.by_client: dict[tuple[int, int], torch.Tensor] = {}

    def on_client_update(self, config: RoundConfig, update: Update) -> None:
        assert update.delta is not None
        self.by_client[config.round, update.client] = update.delta.clone()


A_ROUND = ["training", "aggregation", "evaluation", "metrics"]


def test_every_hook_is_called_in_order(experiment: Maker, tmp_path: Path) -> None:
    recorder = Recorder()
    results = run(experiment(), out=tmp_path, controls=False, callbacks=(recorder,))
    first, second = ["round 1", *A_ROUND, "end of 1"], ["round 2", *A_ROUND, "end of 2"]
    assert recorder.calls == ["start after 0", *first, *second, "finished"]
    assert results.complete


def test_an_error_ends_the_run_and_a_resumed_one_starts_where_it_stood(
    experiment: Maker, tmp_path: Path
) -> None:
    class Failing(Callback):
        def on_round_end(self, outcome: RoundOutcome) -> None:
            raise RuntimeError("enough")

    recorder = Recorder()
    broken = run(experiment(), out=tmp_path, controls=False, callbacks=(recorder, Failing()))
    assert recorder.calls[-1] == "RuntimeError"
    assert "enough" in broken.cells.error[0]
    again = Recorder()
    whole = run(experiment(), out=tmp_path, controls=False, resume=True, callbacks=(again,))
    assert again.calls[0] == "start after 1"
    plain = run(experiment(), out=tmp_path / "plain", controls=False)
    assert whole.cells.params_sha256[0] == plain.cells.params_sha256[0]


class Raising(Callback):
    """Raises an error in one hook, and another one at the end of the run."""

    def __init__(self, hook: str, error: BaseException) -> None:
        self.hook, self.error = hook, error

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_") and name in (object.__getattribute__(self, "hook"), "on_run_end"):
            return lambda *given: self.fail(name)
        return object.__getattribute__(self, name)

    def fail(self, name: str) -> None:
        raise self.error if name == self.hook else ValueError("second")


HOOKS = ["on_run_start", "on_round_start", "on_phase_start", "on_client_update", "on_round_end"]


@pytest.mark.parametrize("hook", [*HOOKS, "on_run_end"])
def test_all_callbacks_hear_the_end_of_a_run(experiment: Maker, tmp_path: Path, hook: str) -> None:
    first, last, error = Recorder(), Recorder(), RuntimeError("first")
    callbacks = (first, Raising(hook, error), last)
    results = run(experiment(), out=tmp_path, controls=False, callbacks=callbacks)
    assert "RuntimeError: first" in results.cells.error[0]  # the second does not hide it
    expected = "finished" if hook == "on_run_end" else "RuntimeError"
    assert first.calls[-1] == last.calls[-1] == expected
    assert (first.calls + last.calls).count(expected) == 2


def test_an_interrupt_is_not_hidden_by_an_error_at_the_end(
    experiment: Maker, tmp_path: Path
) -> None:
    callback = Raising("on_round_end", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(experiment(), [0, 1], out=tmp_path, controls=False, callbacks=callback)
    assert not list(tmp_path.glob("*/*/seed=1"))


class Unpicklable(Callback):
    """Holds an object that cannot be sent to another process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_callbacks_that_cannot_be_sent_to_workers_are_refused(
    experiment: Maker, tmp_path: Path, engine: str
) -> None:
    how: dict[str, Any] = {"out": tmp_path, "controls": False, "callbacks": Unpicklable()}
    with pytest.raises(RequestError, match="callbacks cannot be sent to 2 workers: cannot pickle"):
        run(experiment(), [0, 1], workers=2, engine=engine, **how)
    assert not list(tmp_path.iterdir())
    assert run(experiment(), workers=2, **how).complete  # a single run stays in this process


SCRIPT = """
from fl_sim import Callback, Data, Experiment, run
from clients.sgd import SgdClient
from strategies.fedavg import FedAvg

class Mine(Callback):
    pass

data = Data(dataset="digits", num_clients=2, num_samples=20)
experiment = Experiment(name="x", client=SgdClient(), strategy=FedAvg(), data=data)
run(experiment, [0, 1], out="x", workers=2, callbacks=[Mine()])
"""


def test_callbacks_of_a_script_without_a_file_are_refused(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-"]
    ended = subprocess.run(
        command, input=SCRIPT, capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert "a worker cannot import the script; define them in a module" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("batch_clients", [False, True])
def test_updates_are_shown_before_they_are_added_up(
    experiment: Maker, batch_clients: bool, batched_steps: list[int]
) -> None:
    federation, deltas = load_federation(experiment(model=Model("fc")).to_json()), Deltas()
    *_, last = replay(federation, batch_clients, callbacks=(deltas,))
    assert bool(batched_steps) == batch_clients
    *_, plain = replay(federation, batch_clients)
    assert hash_state(last.state) == hash_state(plain.state)
    sizes = torch.tensor(federation.shards.sizes, dtype=torch.float64)
    total = federation.start.double()
    for round_num in (1, 2):
        rows = torch.stack([deltas.by_client[round_num, k] for k in range(len(sizes))])
        total = total + (sizes / sizes.sum()) @ rows.double()
    torch.testing.assert_close(last.state.parameters, total.float(), rtol=1e-5, atol=1e-6)


def test_updates_of_other_processes_cannot_be_shown(experiment: Maker) -> None:
    federation = load_federation(experiment().to_json())
    grid = LocalGrid(client_app.app, federation.num_clients)
    backend = FlowerBackend(make_trainer(federation), grid)
    with pytest.raises(RequestError, match="on_client_update need the engine local"):
        next(run_rounds(federation, make_initial_state(federation), backend, (Deltas(),)))


def test_a_trainer_cannot_change_the_model_that_a_process_keeps(experiment: Maker) -> None:
    federation = load_federation(experiment().to_json())
    make_trainer(federation).model.append(torch.nn.Flatten())
    assert load_federation(experiment().to_json()) is federation
    assert len(make_trainer(federation).model) == len(federation.model)
