"""What changes a run's result beside its experiment: it belongs to what identifies the run."""

import functools
import hashlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
from flwr.clientapp import ClientApp
from torch import Tensor

from fl_sim.engine import compat
from fl_sim.engine.faults import Faults

PLAIN = (type(None), bool, int, float, complex, str, bytes)


def made_with(faults: Faults, app: ClientApp | None) -> dict[str, str]:
    """Return by name what changes a run's result beside its experiment.

    Args:
        faults: failures that are injected.
        app: a Flower ClientApp that stands in for the experiment's clients.

    Returns:
        `faults`, as `--inject` takes them, and `client_app`, a hash of its code; each of them
        only where it is not the default. An empty dict is a run of the experiment alone.
    """
    found = {}
    if faults != Faults():
        found["faults"] = str(faults)
    if app is not None:
        found["client_app"] = code_digest(compat.functions_of(app))
    return found


def code_digest(value: Any) -> str:
    """Return a hash of what functions do: 16 hexadecimal digits.

    Hashed are their bytecode and constants, what they enclose, their default arguments, and the
    functions, classes and plain values of their own module that they name. Line numbers and
    comments are not.
    """
    sha = hashlib.sha256()
    for part in _parts(value, {}):
        sha.update(f"{len(part)}:{part}".encode())
    return sha.hexdigest()[:16]


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """Yield what a value is made of, each object once; `seen` keeps them, and so their ids."""
    if isinstance(value, PLAIN):
        yield repr(value)
        return
    yield type(value).__qualname__
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, set | frozenset):
        yield from sorted(map(repr, value))  # their order differs from process to process
        return
    for own in _contents(value):
        yield from _parts(own, seen)


def _contents(value: Any) -> Iterator[Any]:
    """Yield what a compound value holds."""
    if isinstance(value, types.FunctionType):
        yield from (value.__module__, value.__qualname__, value.__code__)
        yield from (value.__defaults__, value.__kwdefaults__)
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        named = (value.__globals__.get(name) for name in _names(value.__code__))
        yield from (own for own in named if _belongs(own, value.__module__))
    elif isinstance(value, types.CodeType):
        yield from (value.co_code, value.co_names, value.co_consts)
    elif isinstance(value, type):
        yield from (value.__module__, value.__qualname__)
        yield from (own for own in vars(value).values() if isinstance(own, types.FunctionType))
    elif isinstance(value, types.MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, types.ModuleType):
        yield value.__name__
    else:
        yield from _items(value)


def _items(value: Any) -> Iterator[Any]:
    """Yield what a value that is no code holds."""
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
        yield from (str(array.dtype), array.shape, array.tobytes())
    elif isinstance(value, tuple | list):
        yield from value
    elif isinstance(value, dict):
        yield from (part for item in value.items() for part in item)
    elif hasattr(value, "__dict__") and _is_foreign(type(value)):
        yield from (type(value), vars(value))


def _names(code: types.CodeType) -> list[str]:
    """Return the names that a function and those inside it look up."""
    inside = [own for own in code.co_consts if isinstance(own, types.CodeType)]
    return [*code.co_names, *(name for own in inside for name in _names(own))]


def _belongs(value: Any, module: str) -> bool:
    """Return whether a global value is a module's own: a plain one, or defined there."""
    if isinstance(value, (*PLAIN, tuple, list, dict, set, frozenset)):
        return True
    is_code = isinstance(value, types.FunctionType | type)
    return is_code and getattr(value, "__module__", None) == module


def _is_foreign(cls: type) -> bool:
    """Return whether a class is not of Python's own library."""
    return cls.__module__.split(".")[0] not in sys.stdlib_module_names


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that is not bound yet
        return False
