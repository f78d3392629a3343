"""Failures from outside a run: one clear line, and no existing file is damaged."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fl_sim import Data, Experiment, Participation, run
from fl_sim.core import tensor_files
from fl_sim.core.errors import FieldError
from fl_sim.data.partition import Iid
from fl_sim.experiment import FailurePolicy
from fl_sim.federation.federation import Federation, load_federation
from fl_sim.runs import memory
from fl_sim.runs.progress import Progress
from fl_sim.runs.run_log import RunLog
from fl_sim.training.faults import Faults
from strategies.krum import Krum

Maker = Callable[..., Experiment]


class BreakError(Exception):
    """The error that interrupts a run in these tests."""


def interrupt_run(experiment: Experiment, out: Path, after: int = 2) -> Path:
    """Return the folder of a run that is interrupted after a few rounds."""

    def listen(progress: Progress) -> None:
        if progress.round == after:
            raise BreakError

    run(experiment, out=out, controls=False, listen=listen)
    (folder,) = out.glob("*/*/seed=0")
    return folder


def resumed(experiment: Experiment, out: Path) -> Any:
    return run(experiment, out=out, controls=False, resume=True)


def test_damage_of_all_checkpoints_is_one_clear_error(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(rounds=4)
    folder = interrupt_run(wanted, tmp_path)
    kept = sorted((folder / "checkpoints").glob("*.safetensors"))
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(path.read_bytes()[:-7])
    results = resumed(wanted, tmp_path)
    assert not results.complete
    error = results.cells.error[0]
    assert "no checkpoint in" in error
    assert error.count("damaged, or changed") == 2
    assert "without --resume" in error
    assert [path.exists() for path in kept] == [True, True]


def test_a_changed_log_is_noticed(experiment: Maker, tmp_path: Path) -> None:
    wanted = experiment(rounds=4)
    folder = interrupt_run(wanted, tmp_path)
    log = folder / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"accuracy", b"accuracz", 1))
    results = resumed(wanted, tmp_path)
    assert not results.complete
    assert "log.jsonl was changed since" in results.cells.error[0]


def test_a_foreign_checkpoint_is_refused(experiment: Maker, tmp_path: Path) -> None:
    own, other = experiment(rounds=4), experiment(rounds=5)
    folder = interrupt_run(own, tmp_path / "own")
    foreign = interrupt_run(other, tmp_path / "other")
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    for path in (foreign / "checkpoints").iterdir():
        path.rename(folder / "checkpoints" / path.name)
    results = resumed(own, tmp_path / "own")
    assert not results.complete
    assert "of another experiment" in results.cells.error[0]


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(
    experiment: Maker, tmp_path: Path
) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / experiment().run_id).write_text("a file, where a folder has to be")
    results = run(experiment(), out=tmp_path, controls=False)
    assert not results.complete
    assert "cannot write to" in results.cells.error[0]
    assert "Not a directory" in results.cells.error[0]


@pytest.mark.parametrize("spot", ["log", "checkpoint", "result"])
def test_a_full_disk_ends_the_run_and_leaves_complete_files(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spot: str
) -> None:
    wanted = experiment(rounds=4)
    whole = run(wanted, out=tmp_path / "whole", controls=False)
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        _fill_the_disk(patch, spot, full)
        broken = run(wanted, out=tmp_path / "b", controls=False)
    assert not broken.complete
    error = broken.cells.error[0]
    assert "RunFailedError: cannot write to" in error
    assert "No space left on device" in error
    assert not list((tmp_path / "b").rglob("*.partial"))
    assert not list((tmp_path / "b").rglob("result.json"))
    for path in (tmp_path / "b").rglob("*.safetensors"):
        load_file(path)
    again = resumed(wanted, tmp_path / "b")
    assert again.complete
    assert again.cells.params_sha256[0] == whole.cells.params_sha256[0]


def _fill_the_disk(patch: pytest.MonkeyPatch, spot: str, full: OSError) -> None:
    """Let the third write of a kind fail half-way."""
    calls = []

    def third(write: Callable[..., Any], spoil: Callable[..., None]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(spot)
            if len(calls) == 3:
                spoil(*arguments)
                raise full
            return write(*arguments)

        return call

    def half_a_file(tensors: Any, path: Path, note: Any) -> None:
        path.write_bytes(b"half")

    def half_a_line(log: RunLog, rows: Any, failures: Any) -> None:
        with log.path.open("ab") as file:
            file.write(b'{"rows": [[')

    if spot == "checkpoint":
        patch.setattr(tensor_files, "save_file", third(tensor_files.save_file, half_a_file))
    elif spot == "log":
        patch.setattr(RunLog, "append", third(RunLog.append, half_a_line))
    else:
        write = Path.write_bytes

        def fails(path: Path, content: bytes) -> int:
            if path.name.startswith(".result.json"):
                write(path, content[: len(content) // 2])
                raise full
            return write(path, content)

        patch.setattr(Path, "write_bytes", fails)


def big(experiment: Experiment, monkeypatch: pytest.MonkeyPatch, spare: float) -> Federation:
    """Return a federation that needs more memory than there is, by `spare` models."""
    federation = load_federation(experiment.to_json())
    monkeypatch.setattr(memory, "used_memory", lambda: 0)
    room = memory.predict(federation) - int(spare * 4 * len(federation.start))
    monkeypatch.setattr(memory, "available_memory", lambda: room)
    return federation


def test_too_many_updates_to_stack_are_refused_with_a_number_that_fits(
    experiment: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(dataset="digits", num_clients=20, num_samples=200, num_test=60)
    fields = {"data": data, "strategy": Krum(num_byzantine=0), "partition": Iid()}
    wanted = experiment(**fields)
    federation = big(wanted, monkeypatch, spare=4.5)
    with pytest.raises(FieldError, match=r"participation\.clients_per_round") as caught:
        memory.check(federation)
    assert "at most 15 for Krum" in str(caught.value)
    fits = experiment(**fields, participation=Participation(15))
    memory.check(load_federation(fits.to_json()))


def test_a_network_that_does_not_fit_is_refused(
    experiment: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = big(experiment(), monkeypatch, spare=1)
    with pytest.raises(FieldError, match=r"model\.backbone"):
        memory.check(federation)


def test_a_run_that_does_not_fit_writes_nothing(
    experiment: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big(experiment(), monkeypatch, spare=1)
    results = run(experiment(), out=tmp_path, controls=False)
    assert not results.complete
    assert "model.backbone" in results.cells.error[0]
    assert not list(tmp_path.rglob("seed=0"))


def test_injected_failures_are_rows_and_retries_leave_the_bits(
    experiment: Maker, tmp_path: Path
) -> None:
    wanted = experiment(failures=FailurePolicy("retry", retries=4), rounds=3)
    faults = Faults(crash=0.1, nan=0.1)
    flaky = run(wanted, out=tmp_path / "a", controls=False, faults=faults)
    struck = [
        (number, client, attempt)
        for number in (1, 2, 3)
        for client in range(4)
        for attempt in range(5)
        if all(faults.draw(0, number, client, before) for before in range(attempt + 1))
    ]
    assert struck, "the seed draws no fault: nothing is tested"
    assert max(attempt for _, _, attempt in struck) < 4, "a client is lost for good"
    assert len(flaky.failures) == len(struck)
    healthy = run(wanted, out=tmp_path / "b", controls=False)
    assert flaky.cells.params_sha256[0] == healthy.cells.params_sha256[0]


def test_measured_and_predicted_memory_are_in_the_result(experiment: Maker, tmp_path: Path) -> None:
    run(experiment(rounds=1), out=tmp_path, controls=False)
    (path,) = tmp_path.rglob("result.json")
    cost = json.loads(path.read_text())["cost"]
    assert cost["peak_mib"] > 50
    assert cost["predicted_mib"] > 50
