"""Other tools that can follow a run as it goes: one tool, one file, found by walking here."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from fl_sim.contracts import Row
from fl_sim.core.errors import RequestError
from fl_sim.core.plugins import discover
from fl_sim.rounds.callbacks import Callback
from fl_sim.rounds.state import RoundOutcome


class Tracker(Callback, ABC):
    """Passes the numbers of a run on; its name on the command line is that of its file.

    `module` is what has to be importable for it, and the extra that brings it has the name of
    the tracker.
    """

    module: ClassVar[str]

    @abstractmethod
    def __init__(self, folder: Path, experiment: dict[str, Any], rounds_done: int) -> None:
        """Begin, or go on where a run is resumed.

        Args:
            folder: of the run.
            experiment: as plain values.
            rounds_done: those before are known already.
        """

    @abstractmethod
    def log(self, round_num: int, rows: Iterable[Row]) -> None:
        """Take the numbers of round `number`."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """End: the run has finished, or has broken off and may be resumed."""

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Log the numbers of the round."""
        self.log(outcome.state.round, outcome.rows)

    def on_run_end(self, error: BaseException | None) -> None:
        """Close the tracker."""
        self.close(finished=error is None)


def discover_trackers() -> dict[str, type[Tracker]]:
    """Return every tracker there is, by name."""
    found = discover("fl_sim.trackers", Tracker)  # type: ignore[type-abstract]
    return {cls.__module__.rsplit(".", 1)[1]: cls for cls in found}


def find(names: Iterable[str]) -> list[type[Tracker]]:
    """Return trackers by their names, each once.

    Raises:
        RequestError: for a name that does not exist, or where its package is missing.
    """
    known = discover_trackers()
    found = {}
    for name in names:
        if name not in known:
            raise RequestError(f"--track knows {', '.join(sorted(known))}; got {name!r}")
        if importlib.util.find_spec(known[name].module) is None:
            raise RequestError(
                f"--track {name} needs the package {known[name].module}, which is missing: "
                f"pip install 'fl-sim[{name}]'"
            )
        found[name] = known[name]
    return list(found.values())


def select_overall(rows: Iterable[Row]) -> Iterator[tuple[str, float]]:
    """Yield the names and values of numbers about the whole federation, where they exist.

    Those of single clients are left to the results: there can be many thousands. A group follows
    its metric after a dot, since a slash would make a folder of a name that is a file already.
    """
    for row in rows:
        if row.client == -1 and isfinite(row.value):
            name = row.metric if row.group == "all" else f"{row.metric}.{row.group}"
            yield name, row.value
