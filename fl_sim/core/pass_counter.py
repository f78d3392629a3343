"""Counts forward and backward passes, the cost of making noise.

`count` reports passes, and `count_passes` collects them; without the latter nothing is counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

Listener = Callable[[int], None]


@dataclass
class PassCount:
    """Number of images passed forward and backward so far; an image counts once per pass."""

    passes: int = 0


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
            listen(counter.passes)


@contextmanager
def count_passes(listen: Listener | None = None) -> Iterator[PassCount]:
    """Yield the count of passes made inside the block; `listen` is called with each new total.

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
