"""Tracker for TensorBoard."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, final

from fl_sim.contracts import Row
from fl_sim.trackers import Tracker, select_overall


@final
class TensorBoard(Tracker):
    """Writes event files into the run's folder; `tensorboard --logdir runs` shows all runs.

    Source: https://www.tensorflow.org/tensorboard
    """

    module: ClassVar[str] = "tensorboard"

    def __init__(self, folder: Path, experiment: dict[str, Any], rounds_done: int) -> None:
        """Open an event file, and drop rounds that will be run again from earlier files."""
        from torch.utils.tensorboard import SummaryWriter

        purge_step = rounds_done + 1 if rounds_done else None
        make: Any = SummaryWriter
        self.writer = make(str(folder / "tensorboard"), purge_step=purge_step)
        if not rounds_done:
            self.writer.add_text("experiment", f"```\n{json.dumps(experiment, indent=2)}\n```")

    def log(self, round_num: int, rows: Iterable[Row]) -> None:
        """Write a scalar for each number at once."""
        for name, value in select_overall(rows):
            self.writer.add_scalar(name, value, round_num)
        self.writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self.writer.close()
