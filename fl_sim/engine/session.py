"""One run from start to finish: crew, loop, checkpoints, results."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_sim import process
from fl_sim.atomic_io import DamagedFileError, write_json, write_table
from fl_sim.effort import counted
from fl_sim.engine import client_app, compat, interrupts, memory
from fl_sim.engine.checkpoint import load_state, save_state
from fl_sim.engine.cohort_choice import CohortMode, choose
from fl_sim.engine.crew import Crew, LocalCrew
from fl_sim.engine.environment import environment
from fl_sim.engine.faults import NO_FAULTS, Faults
from fl_sim.engine.federation import Federation, federation, fingerprint_of
from fl_sim.engine.finish import finish, params_sha256
from fl_sim.engine.flower_crew import FlowerCrew
from fl_sim.engine.local_grid import LocalGrid
from fl_sim.engine.log import RunLog
from fl_sim.engine.loop import Played, State, initial_state, rounds
from fl_sim.engine.progress import Listener, Story, already, preparing
from fl_sim.engine.server import server_for
from fl_sim.errors import DivergedError, RequestError, RunFailedError
from fl_sim.experiment import Experiment
from fl_sim.literals import Engine as Engine
from fl_sim.locks import refuse_link
from fl_sim.models import parameters
from fl_sim.results import MODEL, RESULT, checked_result, rows_table
from fl_sim.tensor_files import read_unsealed
from fl_sim.trackers import chosen

LOG = logging.getLogger("fl_sim")


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
        made_with: what changes the result beside the experiment, as `Cell.made_with`.
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
    made_with: Mapping[str, str] = field(default_factory=dict)


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
    finished = None
    if session.resume:
        key = (session.folder.parent.name, experiment.seed)
        finished = finished_before(session.folder, key, fingerprint_of(experiment))
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
    made, data_sha256 = dict(session.made_with), ours.data_sha256
    run = experiment.to_json() + (json.dumps(made, sort_keys=True) if made else "")
    checkpoints = folder / "checkpoints"
    state, log = first_state(ours), RunLog(folder / "log.jsonl")
    if session.resume:
        state = load_state(checkpoints, state, run, log, data_sha256)
    if state.round == 0:
        state.cohort = choose(session.cohort, ours)
    predicted = memory.predicted(ours, session.workers if session.engine == "ray" else 0)
    followers = chosen(session.trackers)
    with Story(experiment, folder, label, state.round, listen, followers) as story:
        for played in _recorded(rounds(ours, state, crew), log, folder):
            log.append(played.rows, played.failures)
            save_state(checkpoints, state, run, log.mark, data_sha256)
            story.tell(state.round, played.rows, played.failures)
            if state.round < experiment.rounds:
                interrupts.check(state.round)
        about = {
            "run_id": folder.parent.name,
            "engine": session.engine,
            **({"data_sha256": data_sha256} if data_sha256 else {}),
            "wall_seconds": time.time() - started,
            "side_by_side": session.side_by_side,
            **({"made_with": made} if made else {}),
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


def finished_before(folder: Path, key: tuple[str, int], data_sha256: str) -> dict[str, Any] | None:
    """Return the result of a finished run that can be kept; None where it has to be made.

    A run whose files were damaged, or whose data was replaced, is made anew, with a warning
    that says why.

    Args:
        folder: of the run.
        key: its run id and seed.
        data_sha256: of the files of the dataset as they are now; "" for a built-in one.
    """
    try:
        result = checked_result(folder, key)
        if result is None:
            return None
        _check_model(folder, result)
        if result.get("data_sha256", data_sha256) != data_sha256:
            raise DamagedFileError(folder / RESULT, "is of other data: the dataset changed since")
        return result
    except DamagedFileError as error:
        LOG.warning("%s; the run is made anew", error)
        for name in (RESULT, MODEL):  # without them it counts as not finished
            (folder / name).unlink(missing_ok=True)
        return None


def _check_model(folder: Path, result: dict[str, Any]) -> None:
    """Check the model of a run of an earlier version, which kept no hashes of its files."""
    if "files" in result or "params_sha256" not in result:
        return
    tensors, _ = read_unsealed(folder / MODEL)
    parameters = tensors.pop("parameters", torch.zeros(0))
    if params_sha256(parameters, tensors) != result["params_sha256"]:
        raise DamagedFileError(folder / MODEL, "is not the model of which result.json tells")


def refuse_links(folder: Path) -> None:
    """Raise a `RequestError` for a run's folder that leads elsewhere, or files in it that do."""
    for own in (folder.parent, folder, *sorted(folder.glob("*"))):
        refuse_link(own)


def open_folder(experiment: Experiment, session: Session) -> None:
    """Start a run's folder: anew, or where it stands when resuming.

    Raises:
        RequestError: where it cannot be written to.
    """
    refuse_links(session.folder)
    try:
        if not session.resume:
            shutil.rmtree(session.folder, ignore_errors=True)
        session.folder.mkdir(parents=True, exist_ok=True)
        write_json(session.folder / "experiment.json", json.loads(experiment.to_json()))
        write_json(session.folder / "environment.json", environment(session.engine))
    except OSError as error:
        raise RequestError(f"cannot write to {session.folder}: {error.strerror}") from None
