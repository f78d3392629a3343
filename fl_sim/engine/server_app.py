"""The same experiments as a Flower App: `flwr run .` in this repository."""

from dataclasses import replace
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_sim import experiment_file
from fl_sim.engine import feasible
from fl_sim.engine.federation import federation
from fl_sim.engine.flower_crew import FlowerCrew
from fl_sim.engine.progress import Progress
from fl_sim.engine.session import Session, await_nodes, drive, open_folder
from fl_sim.results import run_folder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config names, over whatever grid Flower provides.

    Run config: `experiment` (a file of this repository), `set` (overrides, separated by
    spaces), `seed`, and `out` (folder of the results; a relative one starts at the home
    folder, since the working folder is that of Flower's daemon).
    """
    config = context.run_config
    root = Path(__file__).parents[2]
    overrides = str(config["set"]).split()
    content = experiment_file.read(root / str(config["experiment"]), overrides)
    experiment = replace(content.experiment, seed=int(config["seed"]))
    feasible.check(experiment)
    results = Path.home() / Path(str(config["out"])).expanduser() / experiment.name
    folder = run_folder(results, experiment.run_id, experiment.seed)
    session = Session(folder, engine="flower")
    open_folder(experiment, session)
    ours = federation(experiment.to_json())
    await_nodes(grid)
    numbers = drive(ours, FlowerCrew(ours.workshop, grid), session, experiment.name, _say)
    print(f"accuracy {numbers['accuracy']:.3f}, params_sha256 {numbers['params_sha256']}")
    print(f"results: {folder}")


def _say(progress: Progress) -> None:
    print(f"round {progress.round} of {progress.rounds}: accuracy {progress.accuracy:.3f}")
