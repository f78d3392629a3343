"""A limit on how long a client may take."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimedOutError(RuntimeError):
    """A client took longer than `failures.timeout`."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `TimedOutError` in the block once `seconds` have passed; None: never.

    It rests on an alarm signal, so it needs the main thread; elsewhere there is no limit. What
    hangs inside a library's own code is not reached: then a worker of Ray is killed.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimedOutError(f"no reply within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
