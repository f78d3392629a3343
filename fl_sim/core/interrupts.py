"""Signals that end runs: the first after the current round, the second at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fl_sim.core.errors import RunFailedError
from fl_sim.core.resumable import set_stop_check

FINISHING = b"finishing the current round; press Ctrl-C again to stop now\n"


class InterruptedRunError(RunFailedError):
    """The run was interrupted; its checkpoint holds the last finished round."""


_flag: Any = threading.Event()  # in a worker process, its parent's


def set_flag(flag: Any) -> None:
    """Use a parent process's stop flag; with None, a new one."""
    global _flag
    _flag = threading.Event() if flag is None else flag


def request_stop() -> None:
    """Ask all runs of this process to end after their current round."""
    _flag.set()


def is_stop_requested() -> bool:
    """Return whether runs should end after their current round."""
    return bool(_flag.is_set())


def raise_if_requested(round_num: int) -> None:
    """Raise `InterruptedRunError` if a stop was requested."""
    if is_stop_requested():
        raise InterruptedRunError(f"interrupted after round {round_num}; continue with --resume")


def raise_after_interrupt() -> None:
    """Raise `KeyboardInterrupt` if runs that have now ended were asked to stop.

    Without it, a script or notebook that calls one run after another would begin the next one.
    """
    if is_stop_requested():
        raise KeyboardInterrupt("interrupted after the current round; resume=True continues")


set_stop_check(is_stop_requested)  # long computations of noise stop at their next checkpoint


@contextmanager
def finish_round_on_interrupt(flag: Any = None) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the runs inside the block after their current round.

    A second signal raises KeyboardInterrupt. Outside the main thread, which alone can handle
    signals, this only sets the flag.
    """
    set_flag(flag)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if is_stop_requested():
            raise KeyboardInterrupt
        _flag.set()
        os.write(2, FINISHING)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
