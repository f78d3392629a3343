"""Callbacks: every hook is called, in order, on every engine, and none changes the run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fl_sim import Callback, Experiment, run
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


@pytest.mark.parametrize("batch_clients", [False, True])
def test_updates_are_shown_before_they_are_added_up(experiment: Maker, batch_clients: bool) -> None:
    federation, deltas = load_federation(experiment().to_json()), Deltas()
    *_, last = replay(federation, batch_clients, callbacks=(deltas,))
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
