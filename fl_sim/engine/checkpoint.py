"""Checkpoints: one atomic file a round, checked by a hash when it is read. No pickle."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fl_sim.contracts import AggregationRule, Failure, Row
from fl_sim.engine.loop import State

KEPT = 2  # the newest, and the one before in case the newest is damaged


def save_state(folder: Path, state: State) -> None:
    """Write the state after a round, and drop all but the newest two."""
    tensors: dict[str, Tensor] = {}
    tree = {
        "round": state.round,
        "parameters": _pack(state.parameters, tensors),
        "buffers": _pack(state.buffers, tensors),
        "strategy": _pack(_strategy_state(state.strategy), tensors),
        "rows": [list(row) for row in state.rows],
        "failures": [list(failure) for failure in state.failures],
    }
    text = json.dumps(tree)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{state.round:06d}.safetensors"
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"tree": text, "sha256": _digest(text, tensors)})
    os.replace(partial, path)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()


def load_state(folder: Path, strategy: Strategy) -> State | None:
    """Return the newest state that is whole, or None where there is none.

    The state of `strategy` is restored in place.
    """
    for path in _newest_first(folder):
        content = _read(path)
        if content is not None:
            tree, tensors = content
            _restore(strategy, _unpack(tree["strategy"], tensors))
            return State(
                round=tree["round"],
                parameters=_unpack(tree["parameters"], tensors),
                buffers=_unpack(tree["buffers"], tensors),
                strategy=strategy,
                rows=[Row(*row) for row in tree["rows"]],
                failures=[Failure(*failure) for failure in tree["failures"]],
            )
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("round-*.safetensors"), reverse=True)


def _read(path: Path) -> tuple[Any, dict[str, Tensor]] | None:
    """Return the content of a checkpoint, or None where it is torn or was changed."""
    try:
        with safe_open(path, "pt") as file:
            note = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    text = note.get("tree", "")
    if note.get("sha256") != _digest(text, tensors):
        return None
    return json.loads(text), tensors


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    sha = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def _strategy_state(strategy: Strategy) -> dict[str, Any]:
    """Return what a strategy remembers; its rule and functions come from the experiment."""
    return {
        name: _strategy_state(value) if isinstance(value, Strategy) else value
        for name, value in vars(strategy).items()
        if not callable(value) and not isinstance(value, AggregationRule)
    }


def _restore(strategy: Strategy, remembered: dict[str, Any]) -> None:
    for name, value in remembered.items():
        own = getattr(strategy, name, None)
        if isinstance(own, Strategy):
            _restore(own, value)
        else:
            setattr(strategy, name, value)


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
    if isinstance(value, ArrayRecord):
        arrays = value.to_numpy_ndarrays()
        items = [[k, _pack(a, tensors)] for k, a in zip(value, arrays, strict=True)]
        return {"kind": "record", "items": items}
    if isinstance(value, dict):
        return {"kind": "dict", "items": [[k, _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"kind": "list", "items": [_pack(item, tensors) for item in value]}
    raise TypeError(f"a strategy's state cannot hold a {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return what `_pack` packed."""
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
            named = {key: _unpack(item, tensors) for key, item in value["items"]}
            return ArrayRecord({key: torch.from_numpy(array) for key, array in named.items()})
