"""Execution of jobs in sequence, or in parallel processes that never outlive their parent."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch

from fl_sim.core import interrupts, user_modules
from fl_sim.core.device import CPU, assign_device
from fl_sim.core.errors import RunFailedError
from fl_sim.core.literals import Engine
from fl_sim.core.process import silence_logs
from fl_sim.runs.progress import Listener

Job = TypeVar("Job")
Task = Callable[[Job, Listener], str | None]
Attempt = Callable[[Job, Listener], str]

NOT_BEGUN = "interrupted before it began"
_reports: Any = None  # the queue of reports, in a worker process


def run_jobs(
    task: Task[Job],
    jobs: list[Job],
    workers: int = 1,
    *,
    engine: Engine = "local",
    ray_address: str | None = None,
    devices: tuple[torch.device, ...] = (CPU,),
    listen: Listener = lambda progress: None,
    on_job_end: Callable[[Job, str], None] = lambda job, error: None,
) -> list[tuple[Job, str]]:
    """Run jobs, and return those that failed, with their errors; the others continue.

    Several workers run jobs in parallel, in processes or on Ray. An interrupt lets running jobs
    stop where they can be resumed, and fails jobs that have not begun.

    Args:
        task: Picklable function that is called with a job and a listener. An exception, or a
            string that it returns, is the error of the job.
        jobs: Jobs in the order of their start.
        workers: Number of processes, or of workers of Ray.
        engine: `flower` runs one job at a time, since Flower's engine needs this process.
        ray_address: Address of a Ray cluster; None starts Ray on this machine.
        devices: Devices that the workers share, one each; `resolve_devices` gives it to a job.
        listen: Called in this process with the reports of tasks, perhaps in another thread.
        on_job_end: Called with each job that has ended, and its error or an empty string.
    """
    attempt, count = partial(_attempt, task), min(workers, len(jobs))
    if interrupts.is_stop_requested():
        outcomes: Iterator[tuple[Job, str]] = ((job, NOT_BEGUN) for job in jobs)
    elif count < 2 or engine == "flower":
        outcomes = _run_in_turn(attempt, jobs, listen)
    elif engine == "ray":
        from fl_sim.runs import ray_jobs  # Ray takes a second to import

        outcomes = ray_jobs.run_on_ray(attempt, jobs, workers, ray_address, listen, devices)
    else:
        outcomes = _run_side_by_side(attempt, jobs, count, devices, listen)
    failed = []
    for job, error in outcomes:
        on_job_end(job, error)
        if error:
            failed.append((job, error))
    return failed


def _attempt(task: Task[Job], job: Job, listen: Listener) -> str:
    """Run a job; return its error, or an empty string."""
    if interrupts.is_stop_requested():
        return NOT_BEGUN
    try:
        return task(job, listen) or ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _run_in_turn(
    attempt: Attempt[Job], jobs: list[Job], listen: Listener
) -> Iterator[tuple[Job, str]]:
    with interrupts.finish_round_on_interrupt():
        for job in jobs:
            yield job, attempt(job, listen)


def _run_side_by_side(
    attempt: Attempt[Job],
    jobs: list[Job],
    count: int,
    devices: tuple[torch.device, ...],
    listen: Listener,
) -> Iterator[tuple[Job, str]]:
    """Yield jobs and their errors as they end; `listen` is called in a thread of its own."""
    # A fork would copy locks that threads of PyTorch may hold.
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    # Workers exit as soon as this process closes its end of the pipe, or dies.
    parent_alive, own_end = context.Pipe(duplex=False)
    stop = context.Event()
    listener = threading.Thread(target=_forward_reports, args=(reports, listen), daemon=True)
    listener.start()
    places = context.SimpleQueue()
    for number in range(count):
        places.put(str(devices[number % len(devices)]))
    setup = (reports, parent_alive, stop, places, user_modules.declared())
    with (
        _hide_missing_script(),
        ProcessPoolExecutor(count, context, _start_worker, setup) as pool,
        interrupts.finish_round_on_interrupt(stop),
    ):
        try:
            jobs_by_future = {pool.submit(_run_attempt, attempt, job): job for job in jobs}
            for future in as_completed(jobs_by_future):
                yield jobs_by_future[future], future.result()
        except BrokenProcessPool:
            own_end.close()
            raise RunFailedError(
                "a worker process died: it was killed, or ran out of memory; continue with "
                "--resume and fewer --workers"
            ) from None
        except BaseException:
            own_end.close()  # ends the workers at once
            raise
    reports.put(None)
    listener.join()


def has_script() -> bool:
    """Return whether this process runs a script, which its workers can import."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    return path is not None and Path(path).exists()


@contextmanager
def _hide_missing_script() -> Iterator[None]:
    """Let workers start if the script cannot be read, such as one from standard input.

    Workers import the script of their parent by its path. Everything that a run needs is in
    modules, so that they can do without the script.
    """
    script = sys.modules["__main__"]
    path = getattr(script, "__file__", None)
    if path is None or has_script():
        yield
        return
    del script.__file__
    try:
        yield
    finally:
        script.__file__ = path


def _forward_reports(reports: Any, listen: Listener) -> None:
    while (report := reports.get()) is not None:
        listen(report)


def _run_attempt(attempt: Attempt[Job], job: Job) -> str:
    return attempt(job, _reports.put)


def _start_worker(
    reports: Any,
    parent_alive: Connection,
    stop: Any,
    places: Any,
    modules: tuple[user_modules.Declared, ...],
) -> None:
    """Set up a worker, which ignores interrupts, and ends when its parent ends."""
    global _reports
    _reports = reports
    device = torch.device(places.get())
    if device != CPU:
        assign_device(device)
    silence_logs()
    interrupts.set_flag(stop)
    user_modules.adopt(modules)  # before any job is unpickled
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    watch = partial(_exit_when_any_is_ready, [parent.sentinel, parent_alive])
    threading.Thread(target=watch, daemon=True).start()


def _exit_when_any_is_ready(objects: list[Any]) -> None:
    wait(objects)
    os._exit(1)
