"""Counts forward and backward passes, the cost of making noise.

`count` reports passes, `expect` announces them, and `count_passes` collects both; without the
latter nothing is counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class PassCount:
    """Numbers of images passed forward and backward; an image counts once per pass.

    Attributes:
        passes: Number so far.
        expected: Number that was announced, which is the largest possible; 0 if none was.
    """

    passes: int = 0
    expected: int = 0


Listener = Callable[[PassCount], None]


_COUNTING: ContextVar[tuple[PassCount, Listener | None] | None] = ContextVar(
    "pass_count", default=None
)


def count(num_images: int) -> None:
    """Report a forward and backward pass over `num_images` images."""
    counting = _COUNTING.get()
    if counting is not None:
        counter, listen = counting
        counter.passes += num_images
        if listen is not None:
            listen(counter)


def expect(num_images: int) -> None:
    """Announce forward and backward passes over up to `num_images` images."""
    counting = _COUNTING.get()
    if counting is not None:
        counting[0].expected += num_images


@contextmanager
def count_passes(listen: Listener | None = None) -> Iterator[PassCount]:
    """Yield the count of passes made inside the block; `listen` is called with each new one.

    >>> with count_passes() as counter:
    ...     count(3)
    ...     count(4)
    >>> counter.passes
    7
    """
    counter = PassCount()
    token = _COUNTING.set((counter, listen))
    try:
        yield counter
    finally:
        _COUNTING.reset(token)
