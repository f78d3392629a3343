"""What it costs to make noise: images that went forward and backward through a network.

Whoever wants to know opens `counted()`; whoever computes calls `count()`. Where nobody counts, the
call does nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

Listener = Callable[[int], None]


@dataclass
class PassCount:
    """Images that went forward and backward so far; an image that went twice counts twice."""

    passes: int = 0


_COUNTING: ContextVar[tuple[PassCount, Listener | None] | None] = ContextVar("effort", default=None)


def count(num_images: int) -> None:
    """Report a forward and backward pass over `num_images` images."""
    counting = _COUNTING.get()
    if counting is not None:
        counter, listen = counting
        counter.passes += num_images
        if listen is not None:
            listen(counter.passes)


@contextmanager
def count_passes(listen: Listener | None = None) -> Iterator[PassCount]:
    """Yield the effort of what is computed inside; `listen` hears each new total.

    >>> with count_passes() as effort:
    ...     count(3)
    ...     count(4)
    >>> effort.passes
    7
    """
    counter = PassCount()
    token = _COUNTING.set((counter, listen))
    try:
        yield counter
    finally:
        _COUNTING.reset(token)
