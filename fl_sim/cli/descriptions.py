"""Descriptions of plug-ins: fields with types, defaults and ranges, and the source."""

import dataclasses
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from fl_sim.cli.catalogue import BASES, PACKAGES, list_classes, write_value
from fl_sim.config import experiment_file
from fl_sim.core.errors import FieldError, RequestError, suggest
from fl_sim.core.names import list_names_of
from fl_sim.core.plugins import paragraph_of
from fl_sim.core.serialization import make_default
from fl_sim.data.sources import Source
from fl_sim.scenario import Scenario, draw_timeline

SINGULAR = {
    "strategies": "strategy",
    "planted": "planted",
    **{kind: kind.removesuffix("s") for kind in PACKAGES if kind not in ("strategies", "planted")},
    "datasets": "dataset",
}
PROBES: dict[type, tuple[Any, ...]] = {int: (-1, 0, 10**9), float: (-1.0, 0.0, 1e9)}


class Field(NamedTuple):
    """A field of a plug-in.

    Attributes:
        name: Its name.
        kind: Its type, in words.
        default: Its default value.
        allowed: The values that it takes, where numbers are refused; else an empty string.
        text: Its description.
    """

    name: str
    kind: str
    default: str
    allowed: str
    text: str


def describe_lines(name: str) -> list[str]:
    """Return the lines of the description of a plug-in, or of an experiment's scenario.

    Args:
        name: Name of a plug-in, or path of an experiment file that ends in .py or .json.

    Raises:
        RequestError: If there is no such plug-in or file, or it holds no valid experiment.
    """
    if not name.endswith((".py", ".json")):
        return describe_plugin(*find_plugin(name))
    experiment = experiment_file.read(Path(name)).experiment
    return [f"{Scenario.of(experiment)}", *draw_timeline(experiment).splitlines()]


def find_plugin(text: str) -> tuple[str, type[Any]]:
    """Return the kind and the class of a plug-in, such as `strategy.Krum` or `Krum`.

    Raises:
        RequestError: If there is none or several of this name.
    """
    kind, dot, name = text.rpartition(".")
    plural = {one: many for many, one in SINGULAR.items()}.get(kind, kind)
    if dot and plural not in SINGULAR:
        allowed = ", ".join(SINGULAR.values())
        advice = suggest(kind, SINGULAR.values())
        raise RequestError(f"there is no kind {kind!r}{advice}; there are {allowed}")
    found: dict[str, tuple[str, type[Any]]] = {}
    known = list[str]()
    for one in [plural] if dot else SINGULAR:
        for full, cls in list_classes(one).items():
            known.append(full)
            if _normalise(name) in map(_normalise, [full, *list_names_of(cls, BASES)]):
                found[f"{SINGULAR[one]}.{full}"] = (SINGULAR[one], cls)
    if len(found) != 1:
        several = f"several have this name: {', '.join(found)}"
        none = f"nothing has this name{suggest(name, known)}; see fl-sim list"
        raise RequestError(f"{text}: {several if found else none}")
    return next(iter(found.values()))


def _normalise(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def describe_fields(cls: type[Any]) -> list[Field]:
    """Return the fields of a plug-in in order; a dataset has none."""
    if not dataclasses.is_dataclass(cls):
        return []
    default, hints, texts = make_default(cls), get_type_hints(cls), _read_attributes(cls)
    return [
        Field(
            field.name,
            name_type(hints[field.name]),
            write_value(getattr(default, field.name)),
            "; ".join(_find_ranges(default, field.name, hints[field.name])),
            texts.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
    ]


def describe_plugin(kind: str, cls: type[Any]) -> list[str]:
    """Return the lines of the description of a plug-in."""
    name = getattr(cls, "name", "") if issubclass(cls, Source) else cls.__name__
    text = (inspect.getdoc(cls) or "").partition("\nAttributes:")[0]
    source = paragraph_of(cls, "Source:")
    text = re.sub(r"\n\nSource:.*?(?=\n\n|\Z)", "", text, flags=re.DOTALL).strip()
    lines = [f"{kind} {name}, in {cls.__module__}", "", *text.splitlines(), ""]
    for field in describe_fields(cls):
        allowed = f"  ({field.allowed})" if field.allowed else ""
        lines.append(f"  {field.name}: {field.kind} = {field.default}{allowed}")
        lines += [f"      {field.text}"] if field.text else []
    return [*lines, *([""] if lines[-1] else []), f"Source: {source}"]


def name_type(hint: Any) -> str:
    """Return a type in words.

    >>> name_type(int | None), name_type(Literal["a", "b"]), name_type(tuple[int, ...])
    ('int or None', "'a' or 'b'", 'tuple of int')
    """
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, options))
    if origin in (Union, types.UnionType):
        return " or ".join(map(name_type, options))
    if origin is tuple:
        return f"tuple of {name_type(options[0])}"
    return "None" if hint is type(None) else str(getattr(hint, "__name__", hint))


def _find_ranges(plugin: Any, name: str, hint: Any) -> Iterator[str]:
    """Yield the values that a field is said to take by the errors for numbers out of range."""
    seen = set()
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in PROBES.keys() & set(options):
        for value in PROBES[kind]:
            try:
                dataclasses.replace(plugin, **{name: value})
            except FieldError as error:
                if error.field == name and error.allowed not in seen:
                    seen.add(error.allowed)
                    yield error.allowed
            except (ValueError, TypeError):  # of a plug-in that raises errors of its own
                continue


def _read_attributes(cls: type) -> dict[str, str]:
    """Return the description of each field in the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        block = (inspect.getdoc(base) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n      .*)*)", block, re.MULTILINE)
        for names, text in entries:
            texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return texts
