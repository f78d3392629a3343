"""An interrupt ends a run after the round at hand, with its checkpoint; a second one, at once."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fl_sim.core.errors import RunFailedError
from fl_sim.core.resumable import set_stop_check

FINISHING = b"finishing the round, or noise up to a checkpoint; once more stops at once\n"


class InterruptedRunError(RunFailedError):
    """The run was asked to stop; its checkpoint holds the round that it had reached."""


_flag: Any = threading.Event()  # in a worker process, its parent's


def set_flag(flag: Any) -> None:
    """Listen to a parent's flag instead of one's own; None: to a new one."""
    global _flag
    _flag = threading.Event() if flag is None else flag


def request_stop() -> None:
    """Let runs end after their round."""
    _flag.set()


def is_stop_requested() -> bool:
    """Return whether runs are to end after their round."""
    return bool(_flag.is_set())


def raise_if_requested(number: int) -> None:
    """Raise `InterruptedRunError` where runs are to end."""
    if is_stop_requested():
        raise InterruptedRunError(f"interrupted after round {number}; go on with --resume")


set_stop_check(is_stop_requested)  # noise that takes minutes stops at its next checkpoint


@contextmanager
def finish_round_on_interrupt(flag: Any = None) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the runs of the block after their rounds.

    The second one raises KeyboardInterrupt. Only the main thread can take signals; elsewhere
    they are somebody else's business.
    """
    set_flag(flag)
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        if is_stop_requested():
            raise KeyboardInterrupt
        _flag.set()
        os.write(2, FINISHING)

    before = {number: signal.signal(number, ring) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
