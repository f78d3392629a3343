"""Result folders: one process at a time, checked before any work, never a link."""

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl_sim import Data, Experiment, Model, run
from fl_sim.core.errors import RequestError
from fl_sim.core.locks import FolderInUseError, lock_folder
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.models.tuning import build_network
from fl_sim.planted.backdoor import PlantedBackdoor
from fl_sim.protections.targeted_adversarial import TargetedAdversarial
from fl_sim.runs.progress import Progress
from fl_sim.runs.study import run as run_study
from fl_sim.triggers import Patch

Maker = Callable[..., Experiment]
STUDY = '"""A study."""\n\ndef measure(seed):\n    return {"number": float(seed)}\n'


def hold_lock(folder: str, pipe: Any) -> None:
    """Lock a folder until a message comes, for a minute at most."""
    with lock_folder(Path(folder)):
        pipe.send("locked")
        pipe.poll(60)


@contextmanager
def in_use(folder: Path) -> Iterator[Any]:
    """Let another process lock a folder."""
    context = multiprocessing.get_context("fork")
    own_end, other_end = context.Pipe()
    other = context.Process(target=hold_lock, args=(str(folder), other_end))
    other.start()
    assert own_end.poll(60)
    try:
        yield other, own_end
    finally:
        if other.is_alive():
            own_end.send("enough")
        other.join(60)


def test_a_second_process_is_refused_with_the_id_of_the_first(
    experiment: Maker, tmp_path: Path
) -> None:
    with in_use(tmp_path / "test") as (other, _):
        with pytest.raises(FolderInUseError) as caught:
            run(experiment(), out=tmp_path, controls=False)
        assert f"process {other.pid} on {socket.gethostname()}" in str(caught.value)
        assert "--wait" in str(caught.value)
        assert not list(tmp_path.glob("test/*/seed=0"))
    assert run(experiment(rounds=1), out=tmp_path, controls=False).complete


def test_a_second_process_waits_if_asked_to(tmp_path: Path) -> None:
    with in_use(tmp_path / "test") as (other, here):
        here.send("enough")
        with lock_folder(tmp_path / "test", wait=True):
            other.join(60)
            assert not other.is_alive()


def test_the_lock_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    with in_use(tmp_path / "test") as (other, _):
        os.kill(other.pid, signal.SIGKILL)
        other.join(60)
        with lock_folder(tmp_path / "test"):
            assert json.loads((tmp_path / "test" / ".lock").read_text())["pid"] == os.getpid()


def test_other_experiments_can_run_at_the_same_time(experiment: Maker, tmp_path: Path) -> None:
    with in_use(tmp_path / "another"):
        assert run(experiment(rounds=1), out=tmp_path, controls=False).complete


def test_a_study_is_locked_too(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    with in_use(tmp_path / "study"), pytest.raises(FolderInUseError):
        run_study(tmp_path / "study.py", out=tmp_path)
    assert run_study(tmp_path / "study.py", out=tmp_path).complete


def test_an_out_that_cannot_be_opened_is_refused_before_any_work(
    experiment: Maker, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "study.py").write_text(STUDY)
    heard: list[Progress] = []
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(RequestError, match="--out: cannot write to"):
            run(experiment(), out=out, listen=heard.append)
        with pytest.raises(RequestError, match="--out: cannot write to"):
            run_study(tmp_path / "study.py", out=out)
    assert not heard


@pytest.mark.parametrize("link", ["test", "test/{id}", "test/{id}/seed=0", "test/.lock"])
def test_results_are_not_written_through_a_link(
    experiment: Maker, tmp_path: Path, link: str
) -> None:
    elsewhere, own = tmp_path / "elsewhere", tmp_path / "out" / link.format(id=experiment().run_id)
    (elsewhere / "seed=0").mkdir(parents=True)
    (elsewhere / "precious").write_text("precious")
    own.parent.mkdir(parents=True)
    own.symlink_to(elsewhere / "precious" if link.endswith("lock") else elsewhere)
    with pytest.raises(RequestError, match=r"symbolic link|cannot write to"):
        run(experiment(), out=tmp_path / "out", controls=False)
    assert (elsewhere / "precious").read_text() == "precious"
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["precious", "seed=0"]


def test_a_file_of_a_run_that_is_a_link_is_not_written_through(
    experiment: Maker, tmp_path: Path
) -> None:
    results = run(experiment(rounds=1), out=tmp_path / "out", controls=False)
    folder = results.path / experiment(rounds=1).run_id / "seed=0"
    (folder / "result.json").unlink()
    (tmp_path / "precious").write_text("precious")
    (folder / "log.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(RequestError, match=r"log\.jsonl is a symbolic link"):
        run(experiment(rounds=1), out=tmp_path / "out", controls=False, resume=True)
    assert (tmp_path / "precious").read_text() == "precious"


def write_images(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(80) % 2
    images = rng.integers(0, 256, (80, 8, 8), dtype=np.uint8)
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)


def of_a_file(experiment: Maker, path: Path, **fields: Any) -> Experiment:
    data = Data(dataset="npz", path=str(path), num_clients=2)
    return experiment(data=data, partition=Iid(), **fields)


def test_a_finished_run_of_other_data_is_repeated(
    experiment: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "own.npz"
    write_images(path, 0)
    wanted = of_a_file(experiment, path)
    first, again = (
        run(wanted, out=tmp_path / "a", controls=False, resume=True).cells for _ in range(2)
    )
    assert first.wall_seconds[0] == again.wall_seconds[0]
    assert not caplog.text
    write_images(path, 1)
    changed = run(wanted, out=tmp_path / "a", controls=False, resume=True).cells
    fresh = run(wanted, out=tmp_path / "b", controls=False).cells
    assert changed.params_sha256[0] == fresh.params_sha256[0] != first.params_sha256[0]
    assert changed.data_sha256[0] != first.data_sha256[0]
    assert "the dataset changed since; the run is repeated" in caplog.text


@pytest.mark.parametrize("part", ["images of model.planted", "files of its network"])
def test_a_run_is_tied_to_the_files_of_its_start_and_of_its_noise(
    experiment: Maker, tmp_path: Path, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    path = tmp_path / ("own.npz" if "images" in part else "start.pt")

    def write(seed: int) -> None:
        if "images" in part:
            write_images(path, seed)
        else:
            network = build_network(Model("mlp"), (1, 8, 8), 10, seed).trained
            torch.save(network.state_dict(), path)

    if "images" in part:
        recipe = PlantedBackdoor(Patch(side=2), dataset="npz", path=str(path), epochs=1)
        wanted = experiment(model=Model("mlp", init="planted", planted=recipe))
    else:
        start = Model("mlp", init="checkpoint", checkpoint=str(path))
        noise = TargetedAdversarial(
            surrogate=start, surrogate_epochs=1, noise_steps=2, padding=0, step_size=4 / 255
        )
        wanted = experiment(protection=noise, layout=Layout(fraction=0.5))
    write(0)
    first = run(wanted, out=tmp_path / "a", controls=False).cells
    write(1)
    changed = run(wanted, out=tmp_path / "a", controls=False, resume=True).cells
    assert part in caplog.text
    assert changed.params_sha256[0] != first.params_sha256[0]


def test_a_checkpoint_of_other_data_is_refused(experiment: Maker, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    write_images(path, 0)
    wanted = of_a_file(experiment, path, rounds=3)

    def stop(progress: Progress) -> None:
        raise ValueError("broken off")

    run(wanted, out=tmp_path, controls=False, listen=stop)
    write_images(path, 1)
    results = run(wanted, out=tmp_path, controls=False, resume=True)
    assert not results.complete
    assert "of other data" in results.cells.error[0]
    assert results.cells.status[0] == "damaged"
    write_images(path, 0)
    assert run(wanted, out=tmp_path, controls=False, resume=True).complete


def test_a_built_in_dataset_leaves_no_hash(experiment: Maker, tmp_path: Path) -> None:
    assert "data_sha256" not in run(experiment(rounds=1), out=tmp_path, controls=False).cells
