"""One run from start to finish: crew, loop, checkpoints, results."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_sim import process
from fl_sim.atomic_io import write_json
from fl_sim.effort import counted
from fl_sim.engine import client_app, compat, interrupts, memory
from fl_sim.engine.checkpoint import load_state, save_state
from fl_sim.engine.cohort_choice import CohortMode, choose
from fl_sim.engine.crew import Crew, LocalCrew
from fl_sim.engine.environment import environment
from fl_sim.engine.faults import NO_FAULTS, Faults
from fl_sim.engine.federation import Federation, federation
from fl_sim.engine.finish import finish
from fl_sim.engine.flower_crew import FlowerCrew
from fl_sim.engine.local_grid import LocalGrid
from fl_sim.engine.log import RunLog
from fl_sim.engine.loop import Played, State, initial_state, rounds
from fl_sim.engine.progress import Listener, Story, already, preparing
from fl_sim.engine.server import server_for
from fl_sim.engine.variant import made_with
from fl_sim.errors import DivergedError, RequestError, RunFailedError
from fl_sim.experiment import Experiment
from fl_sim.models import parameters
from fl_sim.results import read_result, rows_table, write_table
from fl_sim.trackers import chosen

Engine = Literal["local", "ray", "flower"]


@dataclass(frozen=True)
class Session:
    """How to run an experiment; `faults` and `client_app` change its numbers.

    Attributes:
        folder: where results go.
        engine: `local`, in this process; `ray`, on warm workers of Ray; or `flower`, Flower's
            simulation engine.
        workers: processes that train at once, on `ray` and `flower`.
        resume: go on from the newest checkpoint; leave a finished run alone.
        client_app: a Flower ClientApp that stands in for the experiment's clients.
        cohort: whether small models are trained many at once; `auto` measures what is faster.
        faults: failures to inject.
        ray_address: of a Ray cluster that is running already.
        trackers: names of tools that follow the run.
        side_by_side: how many runs work at once, which share the machine.
    """

    folder: Path
    engine: Engine = "local"
    workers: int = 1
    resume: bool = False
    client_app: ClientApp | None = None
    cohort: CohortMode = "auto"
    faults: Faults = NO_FAULTS
    ray_address: str | None = None
    trackers: tuple[str, ...] = ()
    side_by_side: int = 1

    @property
    def made_with(self) -> dict[str, str]:
        """What changes the result beside the experiment."""
        return made_with(self.faults, self.client_app)


def run_session(
    experiment: Experiment, session: Session, label: str, listen: Listener
) -> dict[str, Any]:
    """Run an experiment and return its headline numbers, which are also on disk.

    Raises:
        RequestError: before anything is written.
        RunFailedError: where the failure policy ends the run, or its folder cannot be written
            to; its checkpoints stay.
    """
    process.settle()
    finished = read_result(session.folder) if session.resume else None
    if finished is not None:
        listen(already(experiment, session.folder, label, finished))
        return finished
    with counted(preparing(experiment, session.folder, label, listen)):
        ours = federation(experiment.to_json())
    memory.check(ours, session.workers if session.engine == "ray" else 0)
    open_folder(experiment, session)
    try:
        return _run(ours, session, label, listen)
    except OSError as error:
        raise RunFailedError(f"cannot write to {session.folder}: {error.strerror}") from error


def _run(ours: Federation, session: Session, label: str, listen: Listener) -> dict[str, Any]:
    if session.engine == "flower":
        return _on_flower(ours, session, label, listen)
    if session.client_app is not None:
        grid = LocalGrid(session.client_app, ours.num_clients)
        return drive(ours, FlowerCrew(ours.workshop, grid), session, label, listen)
    crew = crew_for(ours, session.engine, session.workers, session.ray_address, session.faults)
    return drive(ours, crew, session, label, listen)


def crew_for(
    ours: Federation,
    engine: Engine,
    workers: int,
    ray_address: str | None,
    faults: Faults = NO_FAULTS,
) -> Crew:
    """Return the crew of an engine of ours, whose clients fail as `faults` says."""
    workshop = ours.workshop if faults == NO_FAULTS else replace(ours.workshop, faults=faults)
    if engine == "ray":
        from fl_sim.engine.ray_crew import RayCrew, inside_worker  # a second to import

        if not inside_worker():  # a whole run on one worker trains its clients in turn
            return RayCrew(workshop, ours.examined, workers, ray_address)
    return LocalCrew(workshop)


def _on_flower(ours: Federation, session: Session, label: str, listen: Listener) -> dict[str, Any]:
    outcome: list[dict[str, Any]] = []

    def main(grid: Grid) -> None:
        await_nodes(grid)
        crew = FlowerCrew(ours.workshop, grid, foreign=session.client_app is not None)
        outcome.append(drive(ours, crew, session, label, listen))

    compat.simulate(
        main,
        session.client_app or client_app.app,
        num_nodes=ours.experiment.clients_per_round,
        num_workers=session.workers,
    )
    return outcome[0]


def drive(
    ours: Federation, crew: Crew, session: Session, label: str, listen: Listener
) -> dict[str, Any]:
    """Run the rounds that are left with a crew, and write the results."""
    experiment, started, folder = ours.experiment, time.time(), session.folder
    run, checkpoints = experiment.to_json(), folder / "checkpoints"
    state, log = first_state(ours), RunLog(folder / "log.jsonl")
    if session.resume:
        state = load_state(checkpoints, state, run, log)
    if state.round == 0:
        state.cohort = choose(session.cohort, ours)
    predicted = memory.predicted(ours, session.workers if session.engine == "ray" else 0)
    followers = chosen(session.trackers)
    with Story(experiment, folder, label, state.round, listen, followers) as story:
        for played in _recorded(rounds(ours, state, crew), log, folder):
            log.append(played.rows, played.failures)
            save_state(checkpoints, state, run, log.mark)
            story.tell(state.round, played.rows, played.failures)
            if state.round < experiment.rounds:
                interrupts.check(state.round)
        about = {
            "run_id": folder.parent.name,
            "engine": session.engine,
            "wall_seconds": time.time() - started,
            "side_by_side": session.side_by_side,
            **({"made_with": session.made_with} if session.made_with else {}),
        }
        return finish(ours, state, log, crew, folder, predicted, about)


def _recorded(played: Iterator[Played], log: RunLog, folder: Path) -> Iterator[Played]:
    """Pass rounds on; where the model diverges, leave the table of all rows so far behind."""
    try:
        yield from played
    except DivergedError as error:
        write_table(folder / "rows.parquet", rows_table([*log.rows(), *error.rows]))
        raise


def first_state(ours: Federation) -> State:
    """Return the state before the first round, with a server that remembers nothing yet."""
    strategy = Experiment.from_json(ours.experiment.to_json()).strategy  # Flower's remember
    shapes, seed = parameters.shapes(ours.model), ours.experiment.seed
    return initial_state(ours, server_for(strategy, ours.start, shapes, seed))


def await_nodes(grid: Grid) -> None:
    """Wait until nodes have registered: Flower starts the server before them."""
    deadline = time.time() + 120
    while not list(grid.get_node_ids()):
        if time.time() > deadline:
            raise RuntimeError("no node registered within two minutes")
        time.sleep(0.1)


def open_folder(experiment: Experiment, session: Session) -> None:
    """Start a run's folder: anew, or where it stands when resuming.

    Raises:
        RequestError: where it cannot be written to.
    """
    try:
        if not session.resume:
            shutil.rmtree(session.folder, ignore_errors=True)
        session.folder.mkdir(parents=True, exist_ok=True)
        write_json(session.folder / "experiment.json", json.loads(experiment.to_json()))
        write_json(session.folder / "environment.json", environment(session.engine))
    except OSError as error:
        raise RequestError(f"cannot write to {session.folder}: {error.strerror}") from None
