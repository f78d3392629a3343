"""Variants of a run: causes of another result beside the experiment, such as injected faults."""

import hashlib
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl_sim.core import serialization
from fl_sim.core.flower_types import ClientApp
from fl_sim.core.literals import Precision
from fl_sim.training.faults import Faults

PLAIN = (type(None), bool, int, float, complex, str, bytes)
IGNORED = {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "_abc_impl"}
_END = object()


def describe_variant(
    faults: Faults,
    app: ClientApp | None,
    precision: Precision = "float32",
    compiled: bool = False,
) -> dict[str, str]:
    """Return the changes of a run's result beside its experiment, by name.

    Args:
        faults: Failures that are injected.
        app: A Flower ClientApp that replaces the experiment's clients.
        precision: Precision of the networks.
        compiled: Whether networks are compiled.

    Returns:
        `faults`, in the form of `--inject`, `client_app`, a hash of its code, `precision` and
        `compile`, each unless it is the default. The dict is empty for a run of the experiment
        alone.
    """
    variant = {}
    if faults != Faults():
        variant["faults"] = str(faults)
    if app is not None:
        from fl_sim.flower import compat

        variant["client_app"] = code_digest(compat.get_handlers(app))
    if precision != "float32":
        variant["precision"] = precision
    if compiled:
        variant["compile"] = "yes"
    return variant


def code_digest(value: Any) -> str:
    """Return a hash of the behaviour of functions, as 16 hexadecimal digits.

    It covers their bytecode, constants, closures and default arguments, and everything that they
    use from the user's own modules: functions, classes with their bases, and values of any kind.
    Functions and classes of a library count by their names and closures. Line numbers and comments
    are not hashed.
    """
    sha = hashlib.sha256()
    for token in _iterate_tokens(value):
        sha.update(f"{len(token)}:{token}".encode())
    return sha.hexdigest()[:16]


def _iterate_tokens(root: Any) -> Iterator[str]:
    """Yield the parts of a value, depth first; an object that occurs again, by its number."""
    visited: dict[int, tuple[int, Any]] = {}  # keeps the objects alive, so that ids stay unique
    open_ = [iter((root,))]  # a stack, since objects can nest deeper than Python recurses
    while open_:
        value = next(open_[-1], _END)
        if value is _END:
            open_.pop()
            yield ")"
        elif isinstance(value, PLAIN):
            yield repr(value)
        elif id(value) in visited:
            yield f"#{visited[id(value)][0]}"
        else:
            visited[id(value)] = len(visited), value
            yield f"{type(value).__qualname__}("
            open_.append(iter(_list_contents(value)))


def _list_contents(value: Any) -> Iterable[Any]:
    """Return the parts of a compound value."""
    match value:
        case types.FunctionType():
            return _list_function_contents(value)
        case types.CodeType():
            return _list_code_contents(value)
        case type():
            return _list_class_contents(value)
        case types.ModuleType():
            return (value.__name__,)
        case Tensor() | np.ndarray():
            return _list_array_contents(value)
        case tuple() | list() if type(value) in (tuple, list):
            return value
        case dict() if type(value) is dict:
            return chain.from_iterable(value.items())
        case set() | frozenset():
            return sorted(value, key=_sort_key)  # their order differs between processes
        case _:
            return _list_instance_contents(value)


def _list_function_contents(function: types.FunctionType) -> Iterator[Any]:
    yield from (function.__module__, function.__qualname__)
    yield from (function.__defaults__, function.__kwdefaults__)
    yield from (cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell))
    if not _is_installed(function.__module__):
        yield function.__code__
        yield from _find_used_values(function)


def _list_code_contents(code: types.CodeType) -> tuple[Any, ...]:
    names = (code.co_names, code.co_varnames, code.co_freevars)
    counts = (code.co_argcount, code.co_kwonlyargcount, code.co_flags)
    return (code.co_code, code.co_exceptiontable, *names, *counts, code.co_consts)


def _list_class_contents(cls: type) -> Iterator[Any]:
    yield from (cls.__module__, cls.__qualname__)
    if not _is_installed(cls.__module__):
        yield from cls.__bases__
        for name, value in sorted(vars(cls).items()):
            if name not in IGNORED:
                yield from (name, value)


def _list_array_contents(value: Any) -> tuple[Any, ...]:
    if isinstance(value, np.ndarray):
        content = value.tolist() if value.dtype.hasobject else value.tobytes()
        return (str(value.dtype), value.shape, content)
    dense = value.detach().cpu()
    if dense.layout != torch.strided or dense.is_quantized:
        return (str(dense.dtype), tuple(dense.shape), repr(dense))
    raw = dense.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return (str(dense.dtype), tuple(dense.shape), raw.numpy().tobytes())


def _list_instance_contents(value: Any) -> tuple[Any, ...]:
    """Return the parts of an object that pickle stores, or its attributes if it cannot."""
    descriptors = ("__func__", "__wrapped__", "fget", "fset", "fdel")
    held = tuple(getattr(value, name, None) for name in descriptors)
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # a lock, an open file, or any error of a user's class
        return (type(value), *held, getattr(value, "__dict__", None))
    if isinstance(reduced, str):  # a global object, stored by its name
        return (type(value), *held, reduced)
    return (type(value), *held, *(list(p) if isinstance(p, Iterator) else p for p in reduced))


def _find_used_values(function: types.FunctionType) -> Iterator[Any]:
    """Yield the values that a function uses of its module, and of the user's modules."""
    names = _list_names(function.__code__)
    for name in names:
        value = function.__globals__.get(name)
        yield value
        if isinstance(value, types.ModuleType) and not _is_installed(value.__name__):
            yield from (vars(value).get(attribute) for attribute in names)


def _list_names(code: types.CodeType) -> list[str]:
    """Return the names that a function and those inside it look up."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [*code.co_names, *(name for const in inner for name in _list_names(const))]


@cache
def _is_installed(module: str | None) -> bool:
    """Return whether a module is of Python, a package or fl_sim, so that its name is enough."""
    top = str(module).split(".")[0]
    if top in sys.stdlib_module_names or top in serialization.PACKAGES:
        return True
    folders = (sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is not None and any(Path(file).is_relative_to(place) for place in folders)


def _sort_key(value: Any) -> str:
    """Return the key by which an element of a set is sorted."""
    name = getattr(value, "__qualname__", "")
    return f"{type(value).__qualname__} {name or repr(value)}"


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a variable that is not bound yet
        return False
