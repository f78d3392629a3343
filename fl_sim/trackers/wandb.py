"""Tracker for Weights & Biases."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, final

from fl_sim.contracts import Row
from fl_sim.core.atomic_io import write_text
from fl_sim.trackers import Tracker, select_overall

ID_FILE = "wandb_run.txt"  # file in the run's folder with the run's id in W&B


@final
class WeightsAndBiases(Tracker):
    """Logs to a run of W&B, in files in the folder `wandb` beside the results.

    Nothing is sent unless `WANDB_MODE=online` asks for it; `wandb sync` sends the files later. The
    project has the name of the experiment, or of `WANDB_PROJECT`.

    Source: https://docs.wandb.ai/ref/python/init
    """

    module: ClassVar[str] = "wandb"

    def __init__(self, folder: Path, experiment: dict[str, Any], rounds_done: int) -> None:
        """Begin a run, or continue the one whose id is in the folder."""
        import wandb

        id_file = folder / ID_FILE
        known = id_file.read_text().strip() if rounds_done and id_file.exists() else None
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", experiment["name"]),
            name=f"{folder.parent.name} {folder.name}",
            config=experiment,
            dir=str(folder.absolute().parents[2]),
            mode=os.environ.get("WANDB_MODE", "offline"),
            id=known,
            resume="allow" if known else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        write_text(id_file, self.run.id)

    def log(self, round_num: int, rows: Iterable[Row]) -> None:
        """Log all numbers of a round at once."""
        self.run.log(dict(select_overall(rows)), step=round_num)

    def close(self, finished: bool) -> None:
        """End the run, as failed if it was interrupted."""
        self.run.finish(exit_code=0 if finished else 1)
