"""Experiments as plain JSON, and back: which class, which fields, and nothing else.

Only classes of fl_sim, strategies, clients and Flower's strategy module can be named, so
reading a description never runs anything a file smuggled in.
"""

import dataclasses
import importlib
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flwr.serverapp import strategy as flower_strategies
from flwr.serverapp.strategy import Strategy

from fl_sim.errors import FieldError, RequestError

FLOWER = "flwr.serverapp.strategy"
PACKAGES = ("fl_sim", "strategies", "clients")
# Flower strategies whose other half would have to run in the clients, and one that keeps what
# it computed from its arguments instead of them.
NEED_CLIENTS = (
    "DifferentialPrivacyClientSideAdaptiveClipping",
    "DifferentialPrivacyClientSideFixedClipping",
    "FedXgbBagging",
    "FedXgbCyclic",
)
FORGETFUL = ("DifferentialPrivacyServerSideAdaptiveClipping",)
FUNCTIONS = ("selection_rule", "accountant")  # of Flower strategies: no plain values
Value = TypeVar("Value")


def added(default: Any) -> Any:
    """Return a dataclass field that is left out of JSON while it has its default.

    A field that is added to a released class is declared so: run ids are hashes of the JSON, and
    those of existing results do not change.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     first: int = 1
    ...     second: int = added(2)
    >>> sorted(describe(Example())), sorted(describe(Example(second=3)))
    (['class', 'first'], ['class', 'first', 'second'])
    """
    return dataclasses.field(default=default, metadata={"omit_default": True})


def _is_omitted(owner: Any, field: dataclasses.Field[Any]) -> bool:
    """Return whether a field is left out of the JSON: added later, and at its default."""
    return bool(field.metadata.get("omit_default")) and getattr(owner, field.name) == field.default


def describe(value: Any) -> Any:
    """Return `value` as JSON: dataclasses and Flower strategies by class and fields."""
    if isinstance(value, Strategy):
        return {"class": f"{FLOWER}.{type(value).__name__}", **_flower_arguments(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        hints = get_type_hints(cls)
        names = [f.name for f in dataclasses.fields(value) if not _is_omitted(value, f)]
        fields = {n: describe(_as_meant(getattr(value, n), hints[n])) for n in names}
        return {"class": f"{cls.__module__}.{cls.__qualname__}", **fields}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RequestError(f"an experiment cannot hold a {type(value).__name__}: {value!r}")


def _as_meant(value: Any, hint: Any) -> Any:
    """Return a whole number as a float where a float is meant: 1 and 1.0 are one value.

    Where several values are meant, one stands for itself, and None for no value.
    """
    if get_origin(hint) is tuple and not isinstance(value, tuple):
        return () if value is None else (value,)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    options = get_args(hint) or (hint,)
    return float(value) if is_whole and float in options and int not in options else value


def label(value: Any) -> Any:
    """Return a value in words for a table: a class by its name and what is not default."""
    if isinstance(value, tuple):
        return " + ".join(str(label(own)) for own in value) or "none"
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return type(value).__name__ if isinstance(value, Strategy) else value
    if type(value).__str__ is not object.__str__:
        return str(value)
    default = type(value)()
    names = _argument_names(type(value))
    changed = [n for n in names if getattr(value, n) != getattr(default, n)]
    words = ", ".join(f"{name}={_short(getattr(value, name))}" for name in changed)
    return f"{type(value).__name__}({words})" if words else type(value).__name__


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(label(value))
    if 0 < value < 1 and (value * 255).is_integer():
        return f"{int(value * 255)}/255"
    return str(float(f"{value:.4g}"))


def construct(description: Any, expected: type[Value]) -> Value:
    """Build what `describe` described.

    Raises:
        RequestError: for a class outside the allowed packages, or not of the expected kind.
        FieldError: for an unknown field or a value out of range.
    """
    value = _build(description)
    if not isinstance(value, expected):
        raise RequestError(f"expected a {expected.__name__}, got {type(value).__name__}")
    return value


def with_value(owner: Value, path: str, value: Any) -> Value:
    """Return a copy of `owner` in which the field at `path`, such as `data.num_clients`, is
    `value`. An item of a tuple is named by its place, from 0.

    Raises:
        FieldError: naming the field, what is allowed and what came.
    """
    name, _, rest = path.partition(".")
    current = _field(owner, name)
    try:
        changed = with_value(current, rest, value) if rest else value
    except FieldError as error:
        raise error.under(name) from None
    if isinstance(owner, tuple):
        place = int(name)
        return typing.cast(Value, (*owner[:place], changed, *owner[place + 1 :]))
    arguments = _arguments(owner) | {name: changed}
    return typing.cast(Value, _call(type(owner), arguments))


def check_types(owner: Any) -> None:
    """Raise a `FieldError` for the first field of a dataclass whose value has a wrong type."""
    hints = get_type_hints(type(owner))
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise FieldError(field.name, "a finite number", value)
        if not _fits(value, hints[field.name]):
            allowed = f"expected {_type_name(hints[field.name])}"
            raise FieldError(field.name, allowed, value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            try:
                check_types(value)
            except FieldError as error:
                raise error.under(field.name) from None


def find_class(path: str) -> type:
    """Return the class at a dotted path inside the allowed packages.

    Raises:
        RequestError: for anything else.
    """
    module_name, _, class_name = path.rpartition(".")
    if module_name == FLOWER:
        cls = getattr(flower_strategies, class_name, None)
        if inspect.isclass(cls) and issubclass(cls, Strategy):
            return cls
    elif module_name.split(".")[0] in PACKAGES:
        try:
            cls = getattr(importlib.import_module(module_name), class_name, None)
        except ModuleNotFoundError:
            cls = None
        defined_there = inspect.isclass(cls) and cls.__module__ == module_name
        if inspect.isclass(cls) and defined_there and dataclasses.is_dataclass(cls):
            return cls
    allowed = ", ".join((*PACKAGES, FLOWER))
    raise RequestError(f"class {path!r} is not a part of an experiment; allowed are {allowed}")


def _build(description: Any) -> Any:
    if isinstance(description, Mapping):
        if not isinstance(description.get("class"), str):
            raise RequestError("a description needs the name of its class under 'class'")
        cls = find_class(description["class"])
        return _call(cls, {k: _build(v) for k, v in description.items() if k != "class"})
    if isinstance(description, list):
        return tuple(_build(item) for item in description)
    return description


def _call(cls: type, arguments: dict[str, Any]) -> Any:
    known = _argument_names(cls)
    for name in arguments:
        if name not in known:
            raise FieldError(name, f"{cls.__name__} has {', '.join(known)}", "an unknown field")
    if dataclasses.is_dataclass(cls):
        hints = get_type_hints(cls)
        arguments = {name: _as_meant(value, hints[name]) for name, value in arguments.items()}
    try:
        return cls(**arguments)
    except RequestError:
        raise
    except (TypeError, ValueError) as error:  # of Flower's strategies
        raise RequestError(f"{cls.__name__}: {error}") from None


def with_defaults(cls: type) -> Any:
    """Return an instance with the default values.

    Raises:
        RequestError: for a class that needs arguments.
    """
    return _call(cls, {})


def _argument_names(cls: type) -> list[str]:
    if issubclass(cls, Strategy):
        names = inspect.signature(cls).parameters
        return [n for n in names if not n.endswith("_fn") and n not in FUNCTIONS]
    fields = dataclasses.fields(typing.cast(Any, cls))
    return [field.name for field in fields]


def _arguments(owner: Any) -> dict[str, Any]:
    cls = type(owner)
    missing = [name for name in _argument_names(cls) if not hasattr(owner, name)]
    if missing:
        raise RequestError(f"strategy: {cls.__name__} does not keep its {missing[0]}")
    return {name: getattr(owner, name) for name in _argument_names(cls)}


def _flower_arguments(strategy: Strategy) -> dict[str, Any]:
    return {name: describe(value) for name, value in _arguments(strategy).items()}


def _field(owner: Any, name: str) -> Any:
    if isinstance(owner, tuple):
        if not (name.isdecimal() and int(name) < len(owner)):
            raise FieldError(name, f"a place below {len(owner)}", "an unknown field")
        return owner[int(name)]
    if not (dataclasses.is_dataclass(owner) or isinstance(owner, Strategy)):
        raise FieldError(name, f"{owner!r} has no fields", "an unknown field")
    known = _argument_names(type(owner))
    if name not in known:
        allowed = f"{type(owner).__name__} has {', '.join(known)}"
        raise FieldError(name, allowed, "an unknown field")
    return getattr(owner, name)


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_name(option) for option in get_args(hint))
    if hint is type(None):
        return "None"
    return getattr(hint, "__name__", str(hint))
