"""Interrupts outside of rounds, and workers of a script that cannot be imported."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fl_sim import Experiment, load_results, run
from fl_sim.core import interrupts
from fl_sim.core.resumable import Checkpoint, StoppedError, resume_from
from fl_sim.runs import owner_noise
from fl_sim.runs.progress import Progress

ROOT = Path(__file__).parents[3]
IN_AN_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "fl_sim.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from fl_sim.__main__ import main
main()
"""
SCRIPT = """
import sys
from clients.sgd import SgdClient
from strategies.fedavg import FedAvg
from fl_sim import Data, Experiment, Model, run
if __name__ == "__main__":
    data = Data(dataset="digits", num_clients=2, num_samples=100, num_test=40)
    parts = {"client": SgdClient(), "strategy": FedAvg(), "data": data, "model": Model("linear")}
    own = Experiment(name="own", **parts, rounds=1)
    print(run(own, [0, 1], out=sys.argv[1], workers=2, controls=False).complete)
"""


@pytest.fixture(autouse=True)
def reset_stop_request() -> Iterator[None]:
    """Reset the request to stop after a test."""
    yield
    interrupts.set_flag(None)


def test_long_work_stops_at_its_next_checkpoint(tmp_path: Path) -> None:
    with resume_from(tmp_path):
        checkpoint = Checkpoint("half")
        assert not checkpoint.is_due()
        interrupts.request_stop()
        assert checkpoint.is_due()
        with pytest.raises(StoppedError, match="is kept"):
            checkpoint.save({"half": torch.ones(2)})
        interrupts.set_flag(None)
        kept = Checkpoint("half").load()
    assert kept is not None
    assert torch.equal(kept["half"], torch.ones(2))


def test_no_run_begins_after_an_interrupt_while_noise_is_made(
    experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = interrupts.request_stop
    monkeypatch.setattr(owner_noise, "make_owner_noise", lambda *arguments: stop())
    with pytest.raises(KeyboardInterrupt):
        run(experiment(), out=tmp_path, controls=False)
    results = load_results(tmp_path / experiment().name)
    assert results.cells.error[0] == "interrupted before it began"
    monkeypatch.undo()
    assert run(experiment(rounds=1), out=tmp_path, controls=False).complete


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_script_ends_once_the_round_is_saved(
    experiment: Callable[..., Experiment], tmp_path: Path, sign: signal.Signals
) -> None:
    """A loop over runs would otherwise go on with the next one."""

    def interrupt(progress: Progress) -> None:
        if progress.round == 1:
            os.kill(os.getpid(), sign)

    wanted = experiment(rounds=3)
    with pytest.raises(KeyboardInterrupt, match="resume=True continues"):
        run(wanted, out=tmp_path, controls=False, listen=interrupt)
    (kept,) = tmp_path.rglob("*.safetensors")
    assert kept.name == "round-000001.safetensors"
    assert run(wanted, out=tmp_path, controls=False, resume=True).complete


def test_an_interrupt_while_everything_is_imported_ends_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_AN_IMPORT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "interrupted before it began\n"


@pytest.mark.slow
def test_a_script_on_standard_input_can_use_workers(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-", str(tmp_path)],
        cwd=ROOT,
        input=SCRIPT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr


def test_runs_that_do_not_begin_again_do_not_keep_their_earlier_results(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    wanted = experiment(rounds=1)
    run(wanted, [0, 1], out=tmp_path, controls=False)
    stop = interrupts.request_stop
    with pytest.raises(KeyboardInterrupt):
        run(wanted, [0, 1], listen=lambda _: stop(), out=tmp_path, controls=False)
    cells = load_results(tmp_path / wanted.name).cells
    assert dict(zip(cells["seed"], cells["status"], strict=True)) == {0: "finished", 1: "failed"}
    interrupts.set_flag(None)
    assert run(wanted, [0, 1], out=tmp_path, controls=False, resume=True).complete
