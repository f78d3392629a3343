"""One run from start to finish: federation, backend, rounds with callbacks, results."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl_sim import trackers
from fl_sim.backends.base import Backend, InProcessBackend
from fl_sim.config.sweeps import Cell
from fl_sim.contracts import AggregationRule
from fl_sim.core import process, user_modules
from fl_sim.core.atomic_io import DamagedFileError, write_json
from fl_sim.core.errors import RequestError, RunFailedError
from fl_sim.core.flower_types import Strategy
from fl_sim.core.locks import refuse_link, remove_folder
from fl_sim.core.pass_counter import count_passes
from fl_sim.core.portable import is_portable
from fl_sim.core.precision import current_precision
from fl_sim.core.tensor_files import read_unsealed
from fl_sim.experiment import Experiment
from fl_sim.federation.federation import (
    CHANGES,
    Federation,
    find_change,
    hash_files,
    load_federation,
)
from fl_sim.models import parameters
from fl_sim.results import MODEL, RESULT, read_result, run_folder
from fl_sim.rounds.loop import create_state, run_rounds
from fl_sim.rounds.server import RuleServer, Server
from fl_sim.rounds.state import State
from fl_sim.runs import memory
from fl_sim.runs.batching import choose_batching
from fl_sim.runs.checkpoint import Checkpointer, StopOnInterrupt
from fl_sim.runs.environment import describe_environment, read_device, read_portable
from fl_sim.runs.outputs import hash_parameters, write_outputs
from fl_sim.runs.progress import Listener, ProgressReporter, describe_finished, report_passes
from fl_sim.runs.run_options import RunOptions
from fl_sim.training.client_trainer import make_trainer

LOG = logging.getLogger("fl_sim")


def run_cell(options: RunOptions, side_by_side: int, cell: Cell, listen: Listener) -> None:
    """Run a cell of a grid, unless it has been run before, and write its results.

    Args:
        options: Options of the run.
        side_by_side: Number of runs that share the machine.
        cell: The experiment, and its label.
        listen: Called after every round, and while noise is made.

    Raises:
        RequestError: Before anything is written.
        RunFailedError: If the failure policy ends the run, or its folder cannot be written to;
            its checkpoints stay.
    """
    process.configure_process()
    with options.use_device():
        _run_cell(options, side_by_side, cell, listen)


def _run_cell(options: RunOptions, side_by_side: int, cell: Cell, listen: Listener) -> None:
    experiment, folder = cell.experiment, find_folder(options, cell)
    if options.resume:
        finished = load_finished(folder, cell.key, hash_files(experiment))
        if finished is not None:
            listen(describe_finished(experiment, folder, cell.label, finished))
            return
    with count_passes(report_passes(experiment, folder, cell.label, listen)):
        federation = load_federation(experiment.to_json())
    memory.check(federation, options.workers if options.engine == "ray" else 0)
    open_folder(folder, experiment, options)
    train = partial(run_to_end, federation, options, side_by_side, cell, listen)
    try:
        if options.engine == "flower":
            _simulate(federation, options, train)
        else:
            train(make_backend(federation, options))
    except OSError as error:
        raise RunFailedError(f"cannot write to {folder}: {error.strerror}") from error


def find_folder(options: RunOptions, cell: Cell) -> Path:
    """Return the folder of a cell's results."""
    return run_folder(options.out / cell.experiment.name, *cell.key)


def make_backend(federation: Federation, options: RunOptions) -> Backend:
    """Return the backend of the engine `local` or `ray`."""
    trainer, app = make_trainer(federation, options.faults), options.client_app
    if app is not None:
        from fl_sim.flower.backend import FlowerBackend
        from fl_sim.flower.local_grid import LocalGrid

        return FlowerBackend(trainer, LocalGrid(app, federation.num_clients))
    if options.engine == "ray":
        from fl_sim.backends.ray_backend import RayBackend, is_inside_worker  # takes a second

        if not is_inside_worker():  # a whole run on one worker trains one client at a time
            inputs, devices = federation.evaluation_inputs, options.find_devices()
            return RayBackend(trainer, inputs, options.workers, options.ray_address, devices)
    return InProcessBackend(trainer)


def _simulate(
    federation: Federation, options: RunOptions, train: Callable[[Backend], object]
) -> None:
    """Call `train` with a backend on the grid of Flower's simulation engine."""
    from fl_sim.flower import client_app, compat
    from fl_sim.flower.backend import FlowerBackend, Grid, wait_for_nodes

    app = options.client_app

    def main(grid: Grid) -> None:
        wait_for_nodes(grid)
        train(FlowerBackend(make_trainer(federation), grid, foreign=app is not None))

    num_nodes = federation.experiment.clients_per_round
    gpus = [device.index for device in options.find_devices() if device.type == "cuda"]
    with user_modules.exported():
        compat.simulate(main, app or client_app.app, num_nodes, options.workers, gpus)


def run_to_end(
    federation: Federation,
    options: RunOptions,
    side_by_side: int,
    cell: Cell,
    listen: Listener,
    backend: Backend,
) -> dict[str, Any]:
    """Run the remaining rounds, write the results, and return the headline numbers."""
    started, folder = time.time(), find_folder(options, cell)
    checkpointer = Checkpointer(folder, federation, cell.made_with)
    state = make_initial_state(federation)
    if options.resume:
        state = checkpointer.load(state)
    if state.round == 0:
        state.batch_clients = choose_batching(options.batch_clients, federation)
    memory.fit_to_device(backend.trainer, federation, state.batch_clients)
    predicted = memory.predict(federation, options.workers if options.engine == "ray" else 0)
    experiment_fields = federation.experiment.describe()
    # A round is checkpointed before others report it, and an interrupt takes effect last.
    callbacks = (
        checkpointer,
        *(make(folder, experiment_fields, state.round) for make in trackers.find(options.trackers)),
        ProgressReporter(folder, cell.label, listen),
        *options.callbacks,
        StopOnInterrupt(),
    )
    for _ in run_rounds(federation, state, backend, callbacks):
        pass
    details = {
        "run_id": cell.run_id,
        "engine": options.engine,
        "device": read_device(folder),
        "precision": current_precision(),
        **({"portable": True} if read_portable(folder) else {}),
        **federation.hashes,
        "wall_seconds": time.time() - started,
        "side_by_side": side_by_side,
        **({"memory_note": note} if (note := backend.memory_note()) else {}),
        **({"made_with": dict(cell.made_with)} if cell.made_with else {}),
    }
    return write_outputs(federation, state, checkpointer.log, backend, folder, predicted, details)


def make_initial_state(federation: Federation, batch_clients: bool = False) -> State:
    """Return the state before the first round, with a server of its own."""
    # A copy through JSON, since Flower's strategies keep the state of earlier runs.
    strategy = Experiment.from_json(federation.experiment.to_json()).strategy
    shapes, seed = parameters.parameter_shapes(federation.model), federation.experiment.seed
    state = create_state(federation, make_server(strategy, federation.start, shapes, seed))
    state.batch_clients = batch_clients
    return state


def make_server(
    strategy: AggregationRule | Strategy,
    parameters: Tensor,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
) -> Server:
    """Return the server's side for a rule or a Flower strategy."""
    if isinstance(strategy, Strategy):
        from fl_sim.flower.server import FlowerServer

        return FlowerServer(strategy, shapes, seed)
    return RuleServer(strategy, len(parameters))


def load_finished(
    folder: Path, key: tuple[str, int], hashes: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the result of a finished run that can be kept, or None if it has to be run.

    A run whose files were damaged, or whose data or network was replaced, is run again, with a
    warning that gives the reason.

    Args:
        folder: Folder of the run.
        key: Its run id and seed.
        hashes: Hashes of the present files of data and network; see `hash_files`.
    """
    try:
        return read_finished(folder, key, hashes)
    except DamagedFileError as error:
        LOG.warning("%s; the run is repeated", error)
        for name in (RESULT, MODEL):  # without them it counts as unfinished
            (folder / name).unlink(missing_ok=True)
        return None


def read_finished(
    folder: Path, key: tuple[str, int], hashes: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the result of a finished run, as `load_finished`, and change nothing.

    Raises:
        DamagedFileError: If its files were damaged, or its data or network was replaced.
    """
    result = read_result(folder, key)
    if result is None:
        return None
    _check_model(folder, result)
    changed = find_change(result, hashes)
    if changed:
        raise DamagedFileError(folder / RESULT, f"is {CHANGES[changed]}")
    return result


def _check_model(folder: Path, result: dict[str, Any]) -> None:
    """Check the model of a run by an earlier version, which stored no hashes of its files."""
    if "files" in result or "params_sha256" not in result:
        return
    tensors, _ = read_unsealed(folder / MODEL)
    parameters = tensors.pop("parameters", torch.zeros(0))
    if hash_parameters(parameters, tensors) != result["params_sha256"]:
        raise DamagedFileError(folder / MODEL, "is not the model that result.json describes")


def refuse_links(folder: Path) -> None:
    """Raise a `RequestError` for a run's folder, or a file in it, that is a link."""
    for path in (folder.parent, folder, *sorted(folder.glob("*"))):
        refuse_link(path)


def is_begun(folder: Path) -> bool:
    """Return whether a run's folder holds a result or checkpoints."""
    return (folder / RESULT).exists() or (folder / "checkpoints").exists()


def refuse_other_device(folder: Path, options: RunOptions) -> None:
    """Raise a `RequestError` for a run that was begun on another kind of device, or mode.

    Its bits differ. `mix_devices` keeps it.
    """
    if not options.resume or options.mix_devices or not is_begun(folder):
        return
    made_on, kind = read_device(folder), options.find_device().type
    if made_on not in ("", kind):
        same = "" if " and " in made_on else f"--device {made_on}, or "
        raise RequestError(
            f"{folder} was made on {made_on}, and this is {kind}: give {same}--mix-devices to go "
            "on from it"
        )
    was_portable = read_portable(folder)
    if was_portable not in (None, is_portable()):
        was, now = ("with", "without") if was_portable else ("without", "with")
        raise RequestError(
            f"{folder} was made {was} --portable, and this is {now}: run it {was} --portable, or "
            "give --mix-devices to go on from it"
        )


def open_folder(folder: Path, experiment: Experiment, options: RunOptions) -> None:
    """Create a run's folder, or reuse it if the run is resumed.

    Raises:
        RequestError: If it cannot be written to.
    """
    refuse_links(folder)
    try:
        if not options.resume:
            remove_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        environment = describe_environment(options.engine)
        if is_begun(folder):
            kinds = [*read_device(folder).split(" and "), environment["device"]]
            environment["device"] = " and ".join(dict.fromkeys(filter(None, kinds)))
            if not read_portable(folder):
                environment.pop("portable", None)
        write_json(folder / "experiment.json", json.loads(experiment.to_json()))
        write_json(folder / "environment.json", environment)
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {error.strerror}") from None
