"""Flower App that runs the same experiments: `flwr run .` here, or in a folder of the user's."""

import sys
from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_sim.config import experiment_file
from fl_sim.config.sweeps import Cell
from fl_sim.core import user_modules
from fl_sim.federation.federation import load_federation
from fl_sim.flower.backend import FlowerBackend, wait_for_nodes
from fl_sim.runs import feasibility
from fl_sim.runs.progress import Progress
from fl_sim.runs.run_options import RunOptions
from fl_sim.runs.single_run import find_folder, open_folder, run_to_end
from fl_sim.training.client_trainer import make_trainer

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names, over the grid that Flower provides.

    Run config: `experiment` (a file of the app), `set` (overrides, separated by spaces), `seed`,
    `out` (folder of the results, relative to the home folder, since the working folder is that of
    Flower's daemon), and `plugins` (modules of the app with plug-ins, separated by spaces).
    """
    config = context.run_config
    user_modules.declare(*str(config.get("plugins", "")).split(), source="plugins")
    overrides = str(config.get("set", "")).split()
    content = experiment_file.read(_find_file(str(config["experiment"])), overrides)
    experiment = replace(content.experiment, seed=int(config.get("seed", 0)))
    feasibility.check(experiment)
    out = Path.home() / Path(str(config.get("out", "fl_sim_runs"))).expanduser()
    options, cell = RunOptions(out, engine="flower"), Cell(experiment, {})
    folder = find_folder(options, cell)
    open_folder(folder, experiment, options)
    federation = load_federation(experiment.to_json())
    wait_for_nodes(grid)
    backend = FlowerBackend(make_trainer(federation), grid)
    numbers = run_to_end(federation, options, 1, cell, _print_progress, backend)
    print(f"accuracy {numbers['accuracy']:.3f}, params_sha256 {numbers['params_sha256']}")
    print(f"results: {folder}")


def _find_file(name: str) -> Path:
    """Return the path of a file of the app, whose folder Flower puts first on Python's path."""
    folders = [Path(folder) for folder in sys.path if folder]
    found = next((folder / name for folder in folders if (folder / name).is_file()), None)
    return found or Path(__file__).parents[2] / name


def _print_progress(progress: Progress) -> None:
    print(f"round {progress.round} of {progress.rounds}: accuracy {progress.accuracy:.3f}")
