"""Trackers: adapters that log a run to other tools; each is one file of this package."""

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
    """Logs the numbers of a run to another tool; its name for `--track` is that of its file.

    Attributes:
        module: Module that it needs. The extra of fl-sim that installs it has the tracker's name.
    """

    module: ClassVar[str]

    @abstractmethod
    def __init__(self, folder: Path, experiment: dict[str, Any], rounds_done: int) -> None:
        """Begin to log a run, or continue with a resumed one.

        Args:
            folder: Folder of the run.
            experiment: The experiment as plain values.
            rounds_done: Number of rounds that have been logged already.
        """

    @abstractmethod
    def log(self, round_num: int, rows: Iterable[Row]) -> None:
        """Log the numbers of a round."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """End the log of a run that has finished, or was interrupted and may be resumed."""

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Log the numbers of the round."""
        self.log(outcome.state.round, outcome.rows)

    def on_run_end(self, error: BaseException | None) -> None:
        """Close the tracker."""
        self.close(finished=error is None)


def discover_trackers() -> dict[str, type[Tracker]]:
    """Return every tracker by its name."""
    classes = discover("fl_sim.trackers", Tracker)  # type: ignore[type-abstract]
    return {cls.__module__.rsplit(".", 1)[1]: cls for cls in classes}


def find(names: Iterable[str]) -> list[type[Tracker]]:
    """Return the trackers of these names without repetition.

    Raises:
        RequestError: For an unknown name, or a tracker whose package is missing.
    """
    known = discover_trackers()
    chosen = {}
    for name in names:
        if name not in known:
            raise RequestError(f"--track knows {', '.join(sorted(known))}; got {name!r}")
        spec = importlib.util.find_spec(known[name].module)
        if spec is None or spec.origin is None:  # none: a folder of that name, with a tool's files
            raise RequestError(
                f"--track {name} needs the package {known[name].module}, which is missing: "
                f"pip install 'fl-sim[{name}]'"
            )
        chosen[name] = known[name]
    return list(chosen.values())


def select_overall(rows: Iterable[Row]) -> Iterator[tuple[str, float]]:
    """Yield the names and values of all finite numbers about the whole federation.

    Numbers of single clients are left out, since there can be many thousands. A group follows its
    metric after a dot, since a slash would create a folder with the name of an existing file.
    """
    for row in rows:
        if row.client == -1 and isfinite(row.value):
            name = row.metric if row.group == "all" else f"{row.metric}.{row.group}"
            yield name, row.value
