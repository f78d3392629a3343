"""The processor time of `fl-sim report`, on a sweep of 500 tiny cells.

`python -m benchmarks.pages_cost` runs the sweep into a temporary folder, which takes some minutes,
and prints the CPU seconds of the command, those of starting it, and the size of the page. A folder
of results as argument is measured instead: `python -m benchmarks.pages_cost runs/quickstart`.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from clients.sgd import SgdClient
from fl_sim import Data, Experiment, Model, sweep
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Dirichlet
from fl_sim.protections.random_noise import RandomNoise
from strategies.fedavg import FedAvg

EXPERIMENT = Experiment(
    name="cells",
    data=Data(dataset="digits", num_clients=4, num_samples=200, num_test=100),
    partition=Dirichlet(alpha=0.5),
    protection=RandomNoise(),
    layout=Layout(fraction=0.5, unit="samples"),
    model=Model("linear", init="random"),
    client=SgdClient(learning_rate=0.05),
    strategy=FedAvg(),
    rounds=1,
)
AXES = {
    "layout.fraction": [0.0, 0.25, 0.5, 0.75, 1.0],
    "client.learning_rate": [0.01, 0.03, 0.1, 0.3, 1.0],
    "partition.alpha": [0.1, 0.3, 1.0, 3.0, 10.0],
}
SEEDS = (0, 1, 2, 3)


def measure_report(folder: Path) -> float:
    """Return the CPU seconds of `fl-sim report` on a folder of results, all processes together."""
    before = _read_seconds()
    command = [sys.executable, "-m", "fl_sim", "report", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _read_seconds() - before


def _read_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(folder: Path) -> None:
    """Print the cost of the report of a folder of results."""
    seconds = measure_report(folder)
    size = (folder / "report.html").stat().st_size
    print(f"fl-sim report {folder}: {seconds:.1f} CPU seconds, a page of {size / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            sweep(EXPERIMENT, AXES, seeds=SEEDS, out=temporary)
            main(Path(temporary) / EXPERIMENT.name)
