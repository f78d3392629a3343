"""Checkpoints of long computations, from which they resume after an interrupt.

A caller names a folder with `resume_from`; the computation inside loads and saves a `Checkpoint`.
Without a folder nothing is saved. The folder is made with the first checkpoint.
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

_FOLDER: ContextVar[Path | None] = ContextVar("checkpoints", default=None)
_stop_checks: list[Callable[[], bool]] = [lambda: False]  # the last one is used


class StoppedError(RunFailedError):
    """A long computation was stopped after it saved its checkpoint."""


def set_stop_check(is_requested: Callable[[], bool]) -> None:
    """Stop long computations at their next checkpoint once `is_requested` returns True."""
    _stop_checks[-1] = is_requested


@contextmanager
def resume_from(folder: Path) -> Iterator[None]:
    """Save and load the checkpoints of computations inside the block in `folder`."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)


class Checkpoint:
    """Named tensors in the folder of `resume_from`, written at most every 30 seconds.

    Large ones are written less often, so that writing takes at most `SHARE` of the time.
    """

    def __init__(self, name: str) -> None:
        folder = _FOLDER.get()
        self.path = None if folder is None else folder / f"{name}.safetensors"
        self.last, self.pause = time.monotonic(), SECONDS

    def load(self) -> dict[str, Tensor] | None:
        """Return the saved tensors, or None if there are none."""
        if self.path is None:
            return None
        try:
            return read_tensors(self.path)[0]
        except DamagedFileError:
            return None

    def is_due(self) -> bool:
        """Return whether it is time to save again, which it is at once if a stop was requested."""
        elapsed = time.monotonic() - self.last
        return self.path is not None and (elapsed >= self.pause or _stop_checks[-1]())

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Replace the saved tensors.

        Raises:
            OSError: If they cannot be written.
            StoppedError: After they were saved, if a stop was requested.
        """
        if self.path is not None:
            started = time.monotonic()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(self.path, tensors, {"name": self.path.stem}, durable=False)
            self.last = time.monotonic()
            self.pause = max(SECONDS, (self.last - started) / SHARE)
            if _stop_checks[-1]():
                raise StoppedError("interrupted; what it had made so far is kept")
