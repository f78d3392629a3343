"""Time limit of a client."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TimedOutError(RuntimeError):
    """A client took longer than `failures.timeout`."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise `TimedOutError` in the block after `seconds`; never, if None.

    This uses an alarm signal, hence works in the main thread only; elsewhere there is no limit. A
    signal does not interrupt native code of a library: if that hangs, the Ray worker is killed.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_timeout(number: int, frame: FrameType | None) -> None:
        raise TimedOutError(f"no reply within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
