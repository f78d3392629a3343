"""Checkpoints: one atomic file per round, with a hash that is checked, and without pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl_sim.core import interrupts
from fl_sim.core.atomic_io import DamagedFileError, write_table
from fl_sim.core.errors import DivergedError, RequestError
from fl_sim.core.tensor_files import read_tensors, write_tensors
from fl_sim.federation.federation import CHANGES, Federation, find_change
from fl_sim.results import ROWS, make_rows_table
from fl_sim.rounds.callbacks import Callback
from fl_sim.rounds.state import RoundOutcome, State
from fl_sim.runs.run_log import Mark, RunLog

NUM_KEPT = 2  # the newest checkpoint, and the one before in case the newest is damaged


class Checkpointer(Callback):
    """Saves the rows and the state after each round, so that the run can be resumed.

    Attributes:
        log: The rows and failures of the rounds so far.
    """

    def __init__(self, folder: Path, federation: Federation, made_with: Mapping[str, str]) -> None:
        """Prepare to write into the run's folder; `made_with` is as in `Cell`."""
        self.folder, self.checkpoints = folder, folder / "checkpoints"
        variant = json.dumps(dict(made_with), sort_keys=True) if made_with else ""
        self.run = federation.experiment.to_json() + variant
        self.hashes = federation.hashes
        self.log = RunLog(folder / "log.jsonl")

    def load(self, state: State) -> State:
        """Return the newest saved state, or `state` if there is none; see `load_state`."""
        return load_state(self.checkpoints, state, self.run, self.log, self.hashes)

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Append the rows to the log, and save the state."""
        # The log first, since a checkpoint vouches for the rows up to its mark.
        self.log.append(outcome.rows, outcome.failures)
        save_state(self.checkpoints, outcome.state, self.run, self.log.mark, self.hashes)

    def on_run_end(self, error: BaseException | None) -> None:
        """Write a table of all rows so far if the model has diverged."""
        if isinstance(error, DivergedError):
            write_table(self.folder / ROWS, make_rows_table([*self.log.rows(), *error.rows]))


class StopOnInterrupt(Callback):
    """Stops a run after the round in which it was interrupted."""

    def on_run_start(self, federation: Federation, state: State) -> None:
        """Store the number of rounds."""
        self.rounds = federation.experiment.rounds

    def on_round_end(self, outcome: RoundOutcome) -> None:
        """Raise an `InterruptedRunError` if a stop was requested before the last round."""
        if outcome.state.round < self.rounds:
            interrupts.raise_if_requested(outcome.state.round)


Hashes = Mapping[str, str]  # see `hash_files`
NONE: Hashes = {}
CAUSES = {**CHANGES, "planted_sha256": "of another planted start"}


class CheckpointError(RequestError):
    """Raised if there are checkpoints, but none of them can be used; the message gives reasons."""


def save_state(folder: Path, state: State, run: str, mark: Mark, hashes: Hashes = NONE) -> None:
    """Write the state after a round, and delete all but the newest two checkpoints.

    Args:
        folder: Folder of the checkpoints.
        state: State to save.
        run: The experiment as JSON; a checkpoint of another one is refused.
        mark: Position in the log of the rows.
        hashes: Hashes of the files of data and network; a checkpoint of others is refused.

    Raises:
        OSError: If it cannot be written; earlier checkpoints stay.
    """
    tensors: dict[str, Tensor] = {}
    tree = {
        "run": hashlib.sha256(run.encode()).hexdigest(),
        **{name.removesuffix("_sha256"): hashes.get(name, "") for name in CAUSES},
        "log": list(mark),
        "round": state.round,
        "cohort": state.batch_clients,
        "parameters": _pack(state.parameters, tensors),
        "buffers": _pack(state.buffers, tensors),
        "server": _pack(state.server.state_dict(), tensors),
        "watched": state.watched,
        "memories": _pack({str(c): s for c, s in state.client_states.items()}, tensors),
    }
    text = json.dumps(tree)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{state.round:06d}.safetensors"
    write_tensors(path, tensors, {"tree": text}, durable=False)  # the one before is a fallback
    for old in _list_newest_first(folder)[NUM_KEPT:]:
        old.unlink()


def load_state(folder: Path, state: State, run: str, log: RunLog, hashes: Hashes = NONE) -> State:
    """Return the newest undamaged state, or `state` if there is no checkpoint.

    The server's state is restored in place, and the log is cut back to the checkpoint.

    Raises:
        CheckpointError: If there are checkpoints and none of them can be used.
    """
    paths, causes = _list_newest_first(folder), []
    for path in paths:
        content = _read(path)
        cause = _explain_unusable(content, run, log, hashes)
        if content is None or cause:
            causes.append(f"{path.name}: {cause}")
            continue
        tree, tensors = content
        state.server.load_state_dict(_unpack(tree["server"], tensors))
        log.truncate(Mark(*tree["log"]))
        client_states = _unpack(tree["memories"], tensors)
        return State(
            round=tree["round"],
            parameters=_unpack(tree["parameters"], tensors),
            buffers=_unpack(tree["buffers"], tensors),
            server=state.server,
            client_states={int(client): s for client, s in client_states.items()},
            batch_clients=tree["cohort"],
            watched=tree.get("watched", []),
        )
    if paths:
        raise CheckpointError(
            f"no checkpoint in {folder} can be used ({'; '.join(causes)}); "
            "start again without --resume, or delete them"
        )
    return state


def _explain_unusable(
    content: tuple[Any, dict[str, Tensor]] | None, run: str, log: RunLog, hashes: Hashes
) -> str:
    """Return the reason why a checkpoint cannot be used, or an empty string."""
    if content is None:
        return "damaged, or changed since it was written"
    tree, _ = content
    if tree.get("run") != hashlib.sha256(run.encode()).hexdigest():
        return "of another experiment, or another version"
    stored = {f"{key}_sha256": value for key, value in tree.items() if isinstance(value, str)}
    changed = find_change(stored, hashes, CAUSES)
    if changed:
        return CAUSES[changed]
    if not log.contains(Mark(*tree["log"])):
        return f"{log.path.name} was changed since"
    return ""


def _list_newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-*.safetensors"), reverse=True)


def _read(path: Path) -> tuple[Any, dict[str, Tensor]] | None:
    """Return the tree and tensors of a checkpoint, or None if it is damaged."""
    try:
        tensors, metadata = read_tensors(path)
        return json.loads(metadata["tree"]), tensors
    except (DamagedFileError, KeyError, ValueError):
        return None


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON, with every array moved to `tensors`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic):
        name = f"t{len(tensors)}"
        if isinstance(value, Tensor):
            tensors[name] = value.clone()
            return {"kind": "tensor", "name": name}
        tensors[name] = torch.tensor(np.asarray(value))
        return {"kind": "array", "name": name}
    if isinstance(value, dict):
        return {"kind": "dict", "items": [[k, _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"kind": "list", "items": [_pack(item, tensors) for item in value]}
    from fl_sim.flower.records import ArrayRecord  # here, as Flower takes a second to import

    if isinstance(value, ArrayRecord):
        arrays = value.to_numpy_ndarrays()
        items = [[k, _pack(a, tensors)] for k, a in zip(value, arrays, strict=True)]
        return {"kind": "record", "items": items}
    raise TypeError(f"a strategy's state cannot hold a {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the value that `_pack` packed."""
    if not isinstance(value, dict):
        return value
    match value["kind"]:
        case "tensor":
            return tensors[value["name"]]
        case "array":
            return tensors[value["name"]].numpy()
        case "list":
            return [_unpack(item, tensors) for item in value["items"]]
        case "dict":
            return {key: _unpack(item, tensors) for key, item in value["items"]}
        case _:
            from fl_sim.flower.records import ArrayRecord

            named = {key: _unpack(item, tensors) for key, item in value["items"]}
            return ArrayRecord({key: torch.from_numpy(array) for key, array in named.items()})
