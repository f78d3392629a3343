"""The driver of grids: what raises is recorded, the others go on, and an interrupt ends it."""

import time
from functools import partial
from pathlib import Path

import pytest
import torch

from fl_sim.core import interrupts
from fl_sim.core.device import resolve_devices
from fl_sim.runs.processes import run_jobs
from fl_sim.runs.progress import Listener


def halve(job: int, listen: Listener) -> str | None:
    if job == 0:
        raise ValueError("nothing to halve")
    return f"{job} is odd" if job % 2 else None


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_failed_jobs_are_returned_and_the_others_go_on(workers: int) -> None:
    told: dict[int, str] = {}
    failed = run_jobs(halve, [0, 1, 2], workers, on_job_end=told.__setitem__)
    assert dict(failed) == {0: "ValueError: nothing to halve", 1: "1 is odd"}
    assert told == {**dict(failed), 2: ""}


def test_jobs_after_an_interrupt_do_not_begin() -> None:
    def stop(job: int, listen: Listener) -> None:
        interrupts.request_stop()

    assert run_jobs(stop, [1, 2]) == [(2, "interrupted before it began")]
    interrupts.set_flag(None)


def name_device(folder: Path, job: int, listen: Listener) -> str:
    """Return the device of this process, once another process works at another job."""
    (folder / str(job)).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return str(*resolve_devices("cuda:0,1"))


@pytest.mark.slow
def test_processes_side_by_side_have_a_device_each(tmp_path: Path) -> None:
    devices = (torch.device("cuda", 0), torch.device("cuda", 1))
    done = run_jobs(partial(name_device, tmp_path), [0, 1], 2, devices=devices)
    assert {name for _, name in done} == {"cuda:0", "cuda:1"}
