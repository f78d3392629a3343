"""Where long work may leave what it needs to go on after an interrupt.

Whoever has a place for it opens `scratch(folder)`; whoever computes asks `Checkpoint` for what was
kept. Without a folder nothing is kept; it is made with the first checkpoint.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from torch import Tensor

from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.core.errors import RunFailedError
from fl_sim.core.tensor_files import read_tensors, write_tensors

SECONDS = 30.0  # between two checkpoints
SHARE = 0.05  # of the time, at most, that goes into writing them

_FOLDER: ContextVar[Path | None] = ContextVar("scratch", default=None)


_asks: list[Callable[[], bool]] = [lambda: False]  # the last one tells whether work is to stop


class StoppedError(RunFailedError):
    """Long work was asked to stop, and has kept what it had."""


def set_stop_check(is_requested: Callable[[], bool]) -> None:
    """Let long work stop at its next checkpoint as soon as `asked` returns True."""
    _asks[-1] = is_requested


@contextmanager
def resume_from(folder: Path) -> Iterator[None]:
    """Let what is computed inside keep its state in `folder`."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)


class Checkpoint:
    """Tensors under a name in the scratch folder, written whole and at most every 30 seconds.

    Large ones are written less often.
    """

    def __init__(self, name: str) -> None:
        folder = _FOLDER.get()
        self.path = None if folder is None else folder / f"{name}.safetensors"
        self.last, self.pause = time.monotonic(), SECONDS

    def load(self) -> dict[str, Tensor] | None:
        """Return what was kept, or None where there is nothing."""
        if self.path is None:
            return None
        try:
            return read_tensors(self.path)[0]
        except DamagedFileError:
            return None

    def is_due(self) -> bool:
        """Return whether it is time to keep something again: at once, where work is to stop."""
        waited = time.monotonic() - self.last
        return self.path is not None and (waited >= self.pause or _asks[-1]())

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Replace what is kept.

        Raises:
            OSError: where it cannot be written.
            StoppedError: once it is kept, where work is to stop.
        """
        if self.path is not None:
            started = time.monotonic()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(self.path, tensors, {"name": self.path.stem}, durable=False)
            self.last = time.monotonic()
            self.pause = max(SECONDS, (self.last - started) / SHARE)
            if _asks[-1]():
                raise StoppedError("interrupted; what it had made so far is kept")
