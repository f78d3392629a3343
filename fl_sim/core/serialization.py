"""Converts experiments to JSON and back, as classes with their fields.

Only classes of fl_sim, strategies, clients, Flower's strategy module and the modules that the user
has declared can be named, so reading a description never runs foreign code.
"""

import dataclasses
import importlib
import inspect
import json
import math
import operator
import os
import types
import typing
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from fl_sim.core import flower_strategies, names, user_modules
from fl_sim.core.errors import FieldError, RequestError, UnknownFieldError, require, shorten
from fl_sim.core.flower_strategies import FLOWER, argument_names
from fl_sim.core.flower_types import Strategy
from fl_sim.core.plugins import PACKAGES as PACKAGES
from fl_sim.core.plugins import RENAMED

DEEPEST = 32  # levels of nested parts; deeper ones are a mistake, and would exhaust the stack
LARGEST = 2**63 - 1  # largest integer that torch takes
Value = TypeVar("Value")
# Values that were checked, by the id of the dataclass that holds them, and a reference to it.
_checked: dict[int, tuple["weakref.ref[Any]", tuple[Any, ...]]] = {}


def omit_if_default(default: Any) -> Any:
    """Return a dataclass field that is left out of the JSON at its default value.

    Fields that are added to a released class are declared this way: run ids are hashes of the
    JSON, and those of existing results must not change.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     first: int = 1
    ...     second: int = omit_if_default(2)
    >>> sorted(describe(Example())), sorted(describe(Example(second=3)))
    (['class', 'first'], ['class', 'first', 'second'])
    """
    return dataclasses.field(default=default, metadata={"omit_default": True})


def _is_omitted(owner: Any, field: dataclasses.Field[Any]) -> bool:
    """Return whether a field is declared by `omit_if_default` and at its default."""
    return bool(field.metadata.get("omit_default")) and getattr(owner, field.name) == field.default


def describe(value: Any) -> Any:
    """Return `value` as JSON; dataclasses and Flower strategies become class and fields."""
    if isinstance(value, Strategy):
        arguments = {name: describe(item) for name, item in _arguments(value).items()}
        return {"class": f"{FLOWER}.{type(value).__name__}", **arguments}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        hints = _hints_of(cls)
        included = [f.name for f in dataclasses.fields(value) if not _is_omitted(value, f)]
        fields = {n: describe(_coerce(getattr(value, n), hints[n])) for n in included}
        return {"class": _path_of(cls), **fields}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RequestError(f"an experiment cannot hold a {type(value).__name__}: {shorten(value)}")


def _path_of(cls: type) -> str:
    """Return the dotted path of a class in JSON: the original one, if it was renamed."""
    path = f"{cls.__module__}.{cls.__qualname__}"
    return next((first for first, now in RENAMED.items() if now == path), path)


def _coerce(value: Any, hint: Any) -> Any:
    """Return an integer as a float if the field is a float, so that 1 and 1.0 are one value.

    For a field that is a tuple, a single value becomes a tuple of one, and None an empty tuple.
    """
    if get_origin(hint) is tuple and not isinstance(value, tuple):
        return () if value is None else (value,)
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST
    options = get_args(hint) or (hint,)
    return float(value) if is_whole and float in options and int not in options else value


def label(value: Any) -> Any:
    """Return a value for a table: a class by its name and its fields that are not default."""
    if isinstance(value, tuple):
        return " + ".join(str(label(item)) for item in value) or "none"
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return type(value).__name__ if isinstance(value, Strategy) else value
    if type(value).__str__ is not object.__str__:
        return str(value)
    default = type(value)()
    known = argument_names_of(type(value))
    changed = [n for n in known if getattr(value, n) != getattr(default, n)]
    words = ", ".join(f"{name}={format_field(getattr(value, name))}" for name in changed)
    return f"{type(value).__name__}({words})" if words else type(value).__name__


def format_field(value: Any) -> str:
    """Return a field's value as it is written: rounded, and as a fraction of 255 if shorter.

    >>> format_field(16 / 255), format_field(51 / 255), format_field(0.123456), format_field(3)
    ('16/255', '0.2', '0.1235', '3')
    """
    if not isinstance(value, float):
        return str(label(value))
    if 0 < value < 1 and (value * 255).is_integer() and len(repr(value)) > len("254/255"):
        return f"{int(value * 255)}/255"
    return str(float(f"{value:.4g}"))


def construct(description: Any, expected: type[Value]) -> Value:
    """Return the value that `describe` turned into a description.

    Raises:
        RequestError: For a class outside the allowed packages, or not of the expected kind.
        FieldError: For an unknown field, or a value out of range.
    """
    value = _build(description)
    if not isinstance(value, expected):
        raise RequestError(f"expected a {expected.__name__}, got {type(value).__name__}")
    return value


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, without NaN, infinity or duplicate keys.

    Raises:
        RequestError: For any other text, and for numbers that Python cannot read.
    """
    try:
        return json.loads(text, object_pairs_hook=_make_object, parse_constant=_refuse_constant)
    except RequestError:
        raise
    except RecursionError:
        raise RequestError("this is not JSON: nested too deeply") from None
    except ValueError as error:
        raise RequestError(f"this is not JSON: {error}") from None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RequestError(f"this is not JSON: the key {shorten(twice)} occurs twice")
    return members


def _refuse_constant(word: str) -> Any:
    raise RequestError(f"this is not JSON: {word} is no number of JSON")


def with_value(owner: Value, path: str, value: Any) -> Value:
    """Return a copy of `owner` with the field at `path`, such as `data.num_clients`, replaced.

    An item of a tuple is named by its index, from 0.

    Raises:
        FieldError: Naming the field, the allowed values and the given one.
    """
    return _change_at_once(owner, [(path, value)])


def with_values(owner: Value, changes: Iterable[tuple[str, Any]]) -> Value:
    """Return a copy of `owner` with the fields at several paths replaced.

    They are replaced one after another; those that are refused are tried again after the others,
    and at last all at once, so that their order does not matter.

    Raises:
        FieldError: Naming the field, the allowed values and the given one.
    """
    waiting = list(changes)
    while waiting:
        refused, unknown = list[tuple[str, Any]](), list[UnknownFieldError]()
        for path, value in waiting:
            try:
                owner = with_value(owner, path, value)
            except FieldError as error:
                refused.append((path, value))
                unknown += [error] if isinstance(error, UnknownFieldError) else []
        if len(refused) == len(waiting):
            if unknown:
                raise unknown[0]
            return _change_at_once(owner, waiting)
        waiting = refused
    return owner


def _change_at_once(owner: Value, changes: Iterable[tuple[str, Any]]) -> Value:
    """Return a copy of `owner` with all changes, in which each part is made only once."""
    by_name: dict[str, list[tuple[str, Any]]] = {}
    for path, value in changes:
        name, _, rest = path.partition(".")
        by_name.setdefault(name, []).append((rest, value))
    changed: dict[str, Any] = {}
    for name, inner in by_name.items():
        wholes = [value for rest, value in inner if not rest]
        parts = [(rest, value) for rest, value in inner if rest]
        current = _get_field(owner, name)
        current = wholes[-1] if wholes else current
        try:
            changed[name] = _change_at_once(current, parts) if parts else current
        except FieldError as error:
            raise error.with_prefix(name) from None
    if isinstance(owner, tuple):
        items = [changed.get(str(place), item) for place, item in enumerate(owner)]
        return typing.cast(Value, tuple(items))
    return typing.cast(Value, make(type(owner), _arguments(owner) | changed))


@cache
def _hints_of(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields, cached since reading them dominates construction."""
    return get_type_hints(cls)


class TypeChecked:
    """A plug-in's base: a dataclass whose fields are checked by `check_types` when it is made."""

    def __post_init__(self) -> None:
        check_types(self)


def check_types(owner: Any, depth: int = 1) -> None:
    """Raise a `FieldError` for the first field of a dataclass with a value of a wrong type.

    Also refused are numbers that are not finite or above 2^63 - 1, text that cannot be written to
    a file, and arguments of Flower's strategies that are out of range. Fields of parts that have
    been checked are not checked again while they hold the same values.
    """
    values = field_values(owner)
    if not _is_checked(owner, values):
        check_fields(owner)
    for name, value in values.items():
        for place, part in _list_parts(value):
            try:
                _check_part(part, depth)
            except FieldError as error:
                raise error.with_prefix(f"{name}{place}") from None
    _remember_checked(owner, values)


def _is_checked(owner: Any, values: Mapping[str, Any]) -> bool:
    reference, checked = _checked.get(id(owner), (None, ()))
    same = reference is not None and reference() is owner
    return same and all(map(operator.is_, values.values(), checked))


def _remember_checked(owner: Any, values: Mapping[str, Any]) -> None:
    """Remember the values of a checked dataclass, for as long as it is alive."""
    key = id(owner)
    with suppress(TypeError):  # a class with slots may have no weak references
        reference = weakref.ref(owner, lambda _: _checked.pop(key, None))
        _checked[key] = reference, tuple(values.values())


def check_fields(owner: Any) -> None:
    """Raise a `FieldError` for the first field of a dataclass whose value has a wrong type."""
    hints = _hints_of(owner.__class__)
    for name, value in field_values(owner).items():
        _check_field(name, value, hints[name])


def _check_field(name: str, value: Any, hint: Any) -> None:
    _check_plain(name, value)
    if not _matches(value, hint):
        raise FieldError(name, _describe_allowed(hint, value), value)


def _check_plain(name: str, value: Any) -> None:
    """Refuse plain values that are valid for no part of an experiment."""
    if isinstance(value, float):
        require(math.isfinite(value), name, "a finite number", value)
    elif isinstance(value, int):
        require(abs(value) <= LARGEST, name, "a number within 2^63", value)
    elif isinstance(value, str):
        require(_can_be_written(value), name, "text that can be written to a file", value)
    elif isinstance(value, tuple):
        for item in value:
            _check_plain(name, item)


def _can_be_written(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _list_parts(value: Any) -> list[tuple[str, Any]]:
    """Return a value, or the items of a tuple, each with the suffix of its field path."""
    if isinstance(value, tuple):
        return [(f".{i}", item) for i, item in enumerate(value)]
    return [("", value)]


def _check_part(part: Any, depth: int) -> None:
    if isinstance(part, Strategy):
        flower_strategies.check_arguments(part)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        name = type(part).__name__
        require(depth < DEEPEST, name, f"at most {DEEPEST} parts inside one another", "more")
        check_types(part, depth + 1)


def is_part(cls: type) -> bool:
    """Return whether a class can be part of a description: a dataclass, or Flower's strategy."""
    return dataclasses.is_dataclass(cls) or issubclass(cls, Strategy)


def field_values(part: object) -> dict[str, Any]:
    """Return the values of a dataclass's fields by name; an empty dict for anything else."""
    if isinstance(part, type) or not dataclasses.is_dataclass(part):
        return {}
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


def argument_names_of(cls: type) -> list[str]:
    """Return the names of a dataclass's fields, or of a Flower strategy's plain arguments."""
    if issubclass(cls, Strategy):
        return argument_names(cls)
    fields = dataclasses.fields(typing.cast(Any, cls))
    return [field.name for field in fields]


def find_class(path: str) -> type:
    """Return the class at a dotted path inside the allowed packages.

    Raises:
        RequestError: For any other path.
    """
    module_name, _, class_name = RENAMED.get(path, path).rpartition(".")
    if module_name == FLOWER:
        cls = flower_strategies.find_strategy(class_name)
        if inspect.isclass(cls) and issubclass(cls, Strategy):
            return cls
    elif _can_be_imported(module_name) and is_known(module_name):
        try:
            cls = getattr(importlib.import_module(module_name), class_name, None)
        except ImportError:
            cls = None
        defined_there = inspect.isclass(cls) and cls.__module__ == module_name
        if inspect.isclass(cls) and defined_there and dataclasses.is_dataclass(cls):
            return cls
    allowed = ", ".join((*PACKAGES, FLOWER))
    raise RequestError(
        f"class {shorten(path)} is not a part of an experiment; allowed are those of {allowed}, "
        "and your own of modules named by --plugins or FL_SIM_PLUGINS"
    )


def check_classes(part: Any) -> None:
    """Raise a `FieldError` for the first part whose class cannot be named in JSON.

    Workers, resumed runs and audits rebuild an experiment from its JSON, so its classes cannot be
    defined in an experiment file or a notebook. A class of a module of the user's is declared.
    """
    for name, value in field_values(part).items():
        for place, item in _list_parts(value):
            try:
                _check_class(item)
            except FieldError as error:
                raise error.with_prefix(f"{name}{place}".rstrip(".")) from None


def _check_class(part: Any) -> None:
    check_classes(part)
    if isinstance(part, type) or not dataclasses.is_dataclass(part):
        return
    cls = type(part)
    path = f"{cls.__module__}.{cls.__qualname__}"
    try:
        if is_known(cls.__module__) or user_modules.declare_class(cls):
            find_class(path)
            return
    except RequestError:
        pass
    allowed = (
        f"a class that is written in a file of the package {' or '.join(PACKAGES[1:])}, in "
        f"{PACKAGES[0]}, or in a module of your own that can be imported"
    )
    raise FieldError("class", allowed, path)


def is_known(module_name: str) -> bool:
    """Return whether a module is in a package that defines parts, or declared by the user."""
    return module_name.split(".")[0] in PACKAGES or user_modules.is_declared(module_name)


def list_modules(part: Any) -> set[str]:
    """Return the modules that define the classes of a part and of all parts inside it."""
    if isinstance(part, tuple):
        return {module for item in part for module in list_modules(item)}
    inside = {module for value in field_values(part).values() for module in list_modules(value)}
    return inside | ({type(part).__module__} if dataclasses.is_dataclass(part) else set())


def hash_own_modules(*parts: Any) -> str:
    """Return the hashes of the user's modules that define these parts; see `hash_modules`."""
    return user_modules.hash_modules(set().union(*map(list_modules, parts)))


def _can_be_imported(module_name: str) -> bool:
    parts = module_name.split(".")
    return len(parts) <= DEEPEST and all(part.isidentifier() for part in parts)


def _build(description: Any, depth: int = 1) -> Any:
    if depth > DEEPEST:
        raise RequestError(f"a description has at most {DEEPEST} parts inside one another")
    if isinstance(description, Mapping):
        if not isinstance(description.get("class"), str):
            raise RequestError("a description needs the name of its class under 'class'")
        cls = find_class(description["class"])
        parts = {k: _build(v, depth + 1) for k, v in description.items() if k != "class"}
        return make(cls, parts)
    if isinstance(description, list):
        return tuple(_build(item, depth + 1) for item in description)
    return description


def make(cls: type, arguments: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass, or of a strategy of Flower's.

    A string in the place of a plug-in is the plug-in's name.

    Raises:
        FieldError: For an unknown field, or a value out of range.
        RequestError: If the class cannot be made with these arguments.
    """
    known = argument_names_of(cls)
    for name in arguments:
        if name not in known:
            raise UnknownFieldError(name, cls.__name__, known)
    missing = [name for name in _list_required(cls) if name not in arguments]
    if missing:
        example = f"{cls.__name__}({', '.join(f'{name}=...' for name in missing)})"
        raise RequestError(
            f"{cls.__name__}: {missing[0]} is missing; write {example} in the experiment's file"
        )
    try:
        if dataclasses.is_dataclass(cls):
            hints = _hints_of(cls)
            named = {n: _resolve_names(n, value, hints[n]) for n, value in arguments.items()}
            arguments = {n: _coerce(value, hints[n]) for n, value in named.items()}
            for name, value in arguments.items():
                _check_field(name, value, hints[name])
        return cls(**arguments)
    except RequestError:
        raise
    except Exception as error:  # from constructors that do not check types
        raise RequestError(f"{cls.__name__}: {_without_constructor(str(error), cls)}") from None


def _list_required(cls: type) -> list[str]:
    """Return the fields of a dataclass that have no default."""
    if not dataclasses.is_dataclass(cls):
        return []
    plain = [f for f in dataclasses.fields(cls) if f.default_factory is dataclasses.MISSING]
    return [f.name for f in plain if f.init and f.default is dataclasses.MISSING]


def _without_constructor(words: str, cls: type) -> str:
    """Return Python's message about a class's arguments without the name of the constructor.

    >>> _without_constructor("Layout.__init__() missing 1 argument", type("Layout", (), {}))
    'missing 1 argument'
    """
    return words.replace(f"{cls.__qualname__}.__init__() ", "")


def _resolve_names(field: str, value: Any, hint: Any) -> Any:
    """Return plug-ins with default values for their names, if the hint is for plug-ins."""
    if isinstance(value, tuple) and get_origin(hint) is tuple:
        return tuple(_resolve_names(field, item, get_args(hint)[0]) for item in value)
    bases = _classes_in(hint)
    if not isinstance(value, str) or not bases or _matches(value, hint):
        return value
    if get_origin(hint) is tuple:
        return tuple(make_default(names.choose_plugin(n, field, bases)) for n in value.split(","))
    try:
        return make_default(names.choose_plugin(value, field, bases))
    except FieldError as error:
        if not any(get_origin(option) is Literal for option in get_args(hint)):
            raise
        raise FieldError(field, _describe_allowed(hint, value), error.got) from None


def _classes_in(hint: Any) -> tuple[type, ...]:
    """Return the classes of parts that a hint allows, without plain types."""
    if get_origin(hint) in (Union, types.UnionType, tuple):
        classes = [cls for option in get_args(hint) for cls in _classes_in(option)]
        return tuple(dict.fromkeys(classes))
    if not inspect.isclass(hint) or hint.__module__ == "builtins":
        return ()
    is_part = hint.__module__.split(".")[0] == "flwr" or is_known(hint.__module__)
    return (hint,) if is_part else ()


def make_default(cls: type) -> Any:
    """Return an instance with the default values.

    Raises:
        RequestError: For a class that needs arguments.
    """
    return make(cls, {})


def _arguments(owner: Any) -> dict[str, Any]:
    cls = type(owner)
    missing = [name for name in argument_names_of(cls) if not hasattr(owner, name)]
    if missing:
        raise RequestError(f"strategy: {cls.__name__} does not keep its {missing[0]}")
    return {name: getattr(owner, name) for name in argument_names_of(cls)}


def _get_field(owner: Any, name: str) -> Any:
    if isinstance(owner, tuple):
        if name not in map(str, range(len(owner))):
            raise FieldError(name, f"a place below {len(owner)}", name)
        return owner[int(name)]
    if not (dataclasses.is_dataclass(owner) or isinstance(owner, Strategy)):
        kind = "None (set the whole part first)" if owner is None else shorten(owner)
        raise UnknownFieldError(name, kind, ())
    known = argument_names_of(type(owner))
    if name not in known:
        raise UnknownFieldError(name, type(owner).__name__, known)
    return getattr(owner, name)


def _matches(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(v, get_args(hint)[0]) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe_allowed(hint: Any, value: Any) -> str:
    """Describe the values that a field takes, for a value of a wrong type."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = [option for option in options if not _classes_in(option)]
    bases, name = _classes_in(hint), value if isinstance(value, str) else ""
    words = [] if not bases else [names.describe_expected(bases, name).removeprefix("expected ")]
    return "expected " + " or ".join([*map(_type_name, plain), *words])


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_type_name(option) for option in get_args(hint))
    if hint is type(None):
        return "None"
    return getattr(hint, "__name__", str(hint))
