"""Lookup of plug-ins by class name, or by the short name of the command line."""

import dataclasses
import inspect
from typing import Any

from fl_sim.core.errors import FieldError, suggest
from fl_sim.core.flower_strategies import find_strategy, list_strategies
from fl_sim.core.flower_types import Strategy
from fl_sim.core.plugins import discover

PACKAGES = (
    "strategies",
    "clients",
    "fl_sim.protections",
    "fl_sim.countermeasures",
    "fl_sim.data",
    "fl_sim.planted",
    "fl_sim.samplers",
    "fl_sim.triggers",
)


def find_plugins(bases: tuple[type, ...]) -> dict[str, type[Any]]:
    """Return the plug-ins of any of these kinds by class name, sorted.

    If a rule of this project and a strategy of Flower's share a name, the rule is returned.
    """
    flower = list_strategies() if any(issubclass(base, Strategy) for base in bases) else []
    classes = {name: find_strategy(name) for name in flower} | _find_own(bases)
    return dict(sorted(classes.items()))


def _find_own(bases: tuple[type, ...]) -> dict[str, type[Any]]:
    """Return the plug-ins that are not Flower's, which takes a second to import."""
    classes: dict[str, type[Any]] = {}
    for base in bases:
        for package in PACKAGES:
            plugins: list[type[Any]] = discover(package, base)
            classes |= {cls.__name__: cls for cls in plugins}
        if dataclasses.is_dataclass(base) and not inspect.isabstract(base):
            classes[base.__name__] = base
    return classes


def choose_plugin(name: str, field: str, bases: tuple[type, ...]) -> type[Any]:
    """Return the plug-in of this name.

    Args:
        name: Name of the class, such as `ErrorMinimizing`; or, in upper or lower case, its `short`
            name, such as `em`, or the class name without its kind, such as `sgd` for `SgdClient`.
        field: Field of the experiment that the plug-in is for.
        bases: Kinds that the field accepts.

    Raises:
        FieldError: If no plug-in or several have this name, listing those that exist.
    """
    own = _find_own(bases)
    if name in own:
        return own[name]
    plugins = find_plugins(bases)
    if name in plugins:
        return plugins[name]
    matches = {
        full: cls
        for full, cls in plugins.items()
        if _normalise(name) in map(_normalise, list_names_of(cls, bases))
    }
    if len(matches) == 1:
        return next(iter(matches.values()))
    raise FieldError(field, describe_expected(bases, name, tuple(matches)), name)


def describe_expected(
    bases: tuple[type, ...], name: str = "", matches: tuple[str, ...] = ()
) -> str:
    """Describe the plug-ins that a field accepts.

    Args:
        bases: Kinds that the field accepts.
        name: Name that was given, or an empty string.
        matches: Plug-ins of that name, if there are several.
    """
    kinds = " or ".join(base.__name__ for base in bases)
    if matches:
        return f"expected one {kinds}, and the name is that of {' and '.join(matches)}"
    plugins = find_plugins(bases)
    if plugins.keys() <= {kinds}:  # a class of a run's options, which is no plug-in
        return f"expected {kinds}"
    shorts = {cls.short: full for full, cls in plugins.items() if getattr(cls, "short", "")}
    words = [f"{full} ({short})" for short, full in shorts.items()]
    words += [full for full in plugins if full not in shorts.values()]
    close = suggest(name, [*plugins, *shorts]).removeprefix("; ")
    own = "; modules of your own are named by --plugins" if "." in name else ""
    return f"expected {kinds}: {close + ' One of ' if close else 'one of '}{', '.join(words)}{own}"


def list_names_of(cls: type[Any], bases: tuple[type, ...]) -> list[str]:
    """Return the names of a plug-in: that of its class, its short one, and without its kind."""
    name = cls.__name__
    kinds = [base.__name__ for base in bases if name.endswith(base.__name__)]
    names = [name, getattr(cls, "short", ""), *(name.removesuffix(kind) for kind in kinds)]
    return list(filter(None, names))


def _normalise(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
