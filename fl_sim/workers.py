"""Jobs side by side, in processes that never outlive the one that started them."""

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

from fl_sim.engine import compat, interrupts
from fl_sim.engine.progress import Listener
from fl_sim.errors import RunFailedError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")

_reports: Any = None  # the queue of a worker process


def side_by_side(
    task: Callable[[Job, Listener], Outcome], jobs: list[Job], count: int, listen: Listener
) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job with what `task` makes of it, as they come.

    Args:
        task: picklable; it is given the job and a listener whose reports reach `listen`.
        jobs: what to do.
        count: number of processes.
        listen: called in this process, in a thread of its own.
    """
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    leash, held = context.Pipe(duplex=False)
    stop = context.Event()
    listener = threading.Thread(target=_pass_on, args=(reports, listen), daemon=True)
    listener.start()
    with (
        _without_a_missing_script(),
        ProcessPoolExecutor(count, context, _start, (reports, leash, stop)) as pool,
        interrupts.finishing_rounds(stop),
    ):
        try:
            waiting = {pool.submit(_work, task, job): job for job in jobs}
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool:
            held.close()
            raise RunFailedError(
                "a worker process died: it was killed, or ran out of memory; go on with --resume, "
                "and fewer --workers"
            ) from None
        except BaseException:
            held.close()  # ends the workers at once, whatever they are at
            raise
    reports.put(None)
    listener.join()


@contextmanager
def _without_a_missing_script() -> Iterator[None]:
    """Let workers start although the script is nowhere to be read, such as from standard input.

    Workers import the script of their parent, by its path. What a run is made of comes from
    modules, so that they can do without.
    """
    script = sys.modules["__main__"]
    path = getattr(script, "__file__", None)
    if path is None or Path(path).exists():
        yield
        return
    del script.__file__
    try:
        yield
    finally:
        script.__file__ = path


def _pass_on(reports: Any, listen: Listener) -> None:
    while (report := reports.get()) is not None:
        listen(report)


def _work(task: Callable[[Job, Listener], Outcome], job: Job) -> Outcome:
    return task(job, _reports.put)


def _start(reports: Any, leash: Connection, stop: Any) -> None:
    """Set a worker up: an interrupt is its parent's business, and it ends with its parent."""
    global _reports
    _reports = reports
    compat.quiet()
    interrupts.share(stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    watch = partial(_end_with, [parent.sentinel, leash])
    threading.Thread(target=watch, daemon=True).start()


def _end_with(signs: list[Any]) -> None:
    wait(signs)
    os._exit(1)
