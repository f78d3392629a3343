"""Plug-ins by name: that of the class, or the short one of the command line."""

import dataclasses
import inspect
from typing import Any

from fl_sim.core.errors import FieldError, suggest
from fl_sim.core.flower_strategies import Strategy, find_strategy, list_strategies
from fl_sim.core.plugins import discover

PACKAGES = (
    "strategies",
    "clients",
    "fl_sim.protections",
    "fl_sim.countermeasures",
    "fl_sim.data",
)


def find_plugins(bases: tuple[type, ...]) -> dict[str, type[Any]]:
    """Return the plug-ins of any of these kinds by the name of their class, sorted.

    Where a rule of ours and a strategy of Flower's share a name, it is that of ours.
    """
    found: dict[str, type[Any]] = {}
    if Strategy in bases:
        found = {name: find_strategy(name) for name in list_strategies()}
    for base in bases:
        for package in PACKAGES:
            plugins: list[type[Any]] = discover(package, base)
            found |= {cls.__name__: cls for cls in plugins}
        if dataclasses.is_dataclass(base) and not inspect.isabstract(base):
            found[base.__name__] = base
    return dict(sorted(found.items()))


def choose_plugin(name: str, field: str, bases: tuple[type, ...]) -> type[Any]:
    """Return the plug-in of this name.

    Args:
        name: that of the class, such as `ErrorMinimizing`; in any case also the `short` one,
            such as `em`, or that of the class without its kind, such as `sgd` for `SgdClient`.
        field: that it is for.
        bases: the kinds that fit there.

    Raises:
        FieldError: naming the field and the plug-ins that there are.
    """
    plugins = find_plugins(bases)
    if name in plugins:
        return plugins[name]
    found = {
        full: cls for full, cls in plugins.items() if _normalise(name) in _names_of(cls, bases)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    raise FieldError(field, describe_expected(bases, name, tuple(found)), name)


def describe_expected(bases: tuple[type, ...], name: str = "", found: tuple[str, ...] = ()) -> str:
    """Return in words what may stand for one of these kinds.

    Args:
        bases: the kinds.
        name: the name that came, if one did.
        found: the plug-ins of that name, where there are several.
    """
    kinds = " or ".join(base.__name__ for base in bases)
    if found:
        return f"expected one {kinds}, and the name is that of {' and '.join(found)}"
    plugins = find_plugins(bases)
    shorts = {cls.short: full for full, cls in plugins.items() if getattr(cls, "short", "")}
    words = [f"{full} ({short})" for short, full in shorts.items()]
    words += [full for full in plugins if full not in shorts.values()]
    close = suggest(name, [*plugins, *shorts]).removeprefix("; ")
    return f"expected {kinds}: {close + ' One of ' if close else 'one of '}{', '.join(words)}"


def _names_of(cls: type[Any], bases: tuple[type, ...]) -> set[str]:
    """Return the names of a plug-in, spelled without case, hyphens and underscores."""
    name = cls.__name__
    kinds = [base.__name__ for base in bases if name.endswith(base.__name__)]
    names = [name, getattr(cls, "short", ""), *(name.removesuffix(kind) for kind in kinds)]
    return {_normalise(full) for full in names if full}


def _normalise(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
