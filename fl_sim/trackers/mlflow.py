"""Tracker for MLflow."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import time
from typing import Any, ClassVar, final

from fl_sim.contracts import Row
from fl_sim.core.atomic_io import write_text
from fl_sim.trackers import Tracker, select_overall

ID_FILE = "mlflow_run.txt"  # file in the run's folder with the run's id in MLflow
MAX_LENGTH = 500  # characters of a parameter's value that every store accepts


@final
class MLflow(Tracker):
    """Logs to a run of MLflow, in the store `mlruns` beside the results, or `MLFLOW_TRACKING_URI`.

    Without that variable only files are used, and no server.

    Source: https://mlflow.org/docs/latest/ml/tracking
    """

    module: ClassVar[str] = "mlflow"

    def __init__(self, folder: Path, experiment: dict[str, Any], rounds_done: int) -> None:
        """Begin a run, or continue the one whose id is in the folder."""
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        store = (folder.absolute().parents[2] / "mlruns").as_uri()
        self.client: Any = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", store))
        id_file = folder / ID_FILE
        if rounds_done and id_file.exists():
            self.run = id_file.read_text().strip()
            self.client.update_run(self.run, status="RUNNING")
            return
        run_id = folder.parent.name
        name = f"{run_id} {folder.name}"
        self.run = self.client.create_run(
            self._group(experiment["name"]), run_name=name
        ).info.run_id
        write_text(id_file, self.run)
        for path, value in flatten(experiment):
            self.client.log_param(self.run, path, str(value)[:MAX_LENGTH])

    def _group(self, name: str) -> str:
        """Return the id of MLflow's experiment of this name, which is created if needed."""
        experiment = self.client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment else self.client.create_experiment(name))

    def log(self, round_num: int, rows: Iterable[Row]) -> None:
        """Log all numbers of a round at once."""
        from mlflow.entities import Metric

        now = int(1000 * time())
        metrics = [Metric(name, value, now, round_num) for name, value in select_overall(rows)]
        self.client.log_batch(self.run, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Set the status of the run to finished or killed."""
        self.client.set_terminated(self.run, "FINISHED" if finished else "KILLED")


def flatten(tree: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the leaves of nested values with their paths, in the form of `--set`."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
