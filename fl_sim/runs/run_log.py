"""Log of a run's rows: one line of JSON per round, appended, and cut back on resuming.

A checkpoint holds the length of the log and its hash up to there, so that rows are written once
and never held in memory.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fl_sim.contracts import Failure, Row


class Mark(NamedTuple):
    """Position in a log: its length in bytes, and its hash up to there."""

    length: int = 0
    sha256: str = hashlib.sha256().hexdigest()


@dataclass
class RunLog:
    """Rows and failures of each round so far."""

    path: Path
    mark: Mark = field(default_factory=Mark)
    _sha: Any = field(default_factory=hashlib.sha256, repr=False)

    def append(self, rows: list[Row], failures: list[Failure]) -> None:
        """Add a round, and overwrite the rest of an interrupted write."""
        line = json.dumps({"rows": rows, "failures": failures}).encode() + b"\n"
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.seek(self.mark.length)  # before the remains of an interrupted write, if any
            file.write(line)
            file.truncate()
        self._sha.update(line)
        self.mark = Mark(self.mark.length + len(line), self._sha.hexdigest())

    def contains(self, mark: Mark) -> bool:
        """Return whether the log up to `mark` is unchanged."""
        if not self.path.exists():
            return mark.length == 0
        with self.path.open("rb") as file:
            content = file.read(mark.length)
        return Mark(len(content), hashlib.sha256(content).hexdigest()) == mark

    def truncate(self, mark: Mark) -> None:
        """Continue from `mark`: later rounds will be overwritten."""
        content = b""
        if mark.length:
            with self.path.open("rb") as file:
                content = file.read(mark.length)
        self._sha, self.mark = hashlib.sha256(content), mark

    def rows(self) -> Iterator[Row]:
        """Yield every row so far."""
        for content in self._lines():
            yield from (Row(*row) for row in content["rows"])

    def failures(self) -> list[Failure]:
        """Return every failure so far."""
        return [Failure(*fields) for content in self._lines() for fields in content["failures"]]

    def _lines(self) -> Iterator[Any]:
        if self.mark.length == 0:
            return
        read = 0
        with self.path.open("rb") as file:
            for line in file:
                read += len(line)
                if read > self.mark.length:
                    return
                yield json.loads(line)
