"""Discovers plug-ins in their packages, without a registry, and reads their docstrings.

Those of users are in modules of their own (`fl_sim.core.user_modules`).
"""

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise, takewhile
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fl_sim.core import user_modules
from fl_sim.core.errors import RequestError
from fl_sim.core.user_modules import PACKAGES as PACKAGES

RENAMED = {  # paths in the JSON of earlier results, which run ids hash, and current paths
    "fl_sim.experiment.Model": "fl_sim.model.Model",
    "fl_sim.participants.Stay": "fl_sim.participants.AvailabilityWindow",
}
Plugin = TypeVar("Plugin")


def discover(package: str, base: type[Plugin]) -> list[type[Plugin]]:
    """Return every concrete subclass of `base` in `package` and in the user's modules, by name.

    Args:
        package: A package, whose modules are searched, or a module.
        base: Class that the plug-ins derive from.

    Raises:
        RequestError: If two have the same name, or a module of the user's cannot be imported.
    """
    plugins = [*find_classes(package, base), *discover_own(base)]
    plugins.sort(key=lambda cls: cls.__name__)
    for one, other in pairwise(plugins):
        if one.__name__ == other.__name__:
            paths = " and ".join(sorted(f"{cls.__module__}.{cls.__name__}" for cls in (one, other)))
            raise RequestError(f"two plug-ins have the name {one.__name__}: {paths}; rename yours")
    return plugins


def find_classes(package: str, base: type[Plugin]) -> list[type[Plugin]]:
    """Return every concrete subclass of `base` that is defined in a package, or in a module."""
    if package in PACKAGES[1:] and package not in sys.modules:
        user_modules.refuse_foreign_packages()
    root = importlib.import_module(package)
    infos = pkgutil.iter_modules(getattr(root, "__path__", ()), f"{package}.")
    return _find_in([importlib.import_module(info.name) for info in infos] or [root], base)


def discover_own(base: type[Plugin]) -> list[type[Plugin]]:
    """Return every concrete subclass of `base` in the user's modules."""
    return _find_in(user_modules.import_modules(), base)


def index_by_name(plugins: Iterable[type[Plugin]]) -> dict[str, Plugin]:
    """Return an instance of each of these plug-ins by its `name`.

    Raises:
        RequestError: If two have the same name.
    """
    index: dict[str, Plugin] = {}
    for cls in plugins:
        name: str = cls.name  # type: ignore[attr-defined]
        if name in index:
            paths = " and ".join(f"{c.__module__}.{c.__name__}" for c in (type(index[name]), cls))
            raise RequestError(f"two plug-ins have the name {name!r}: {paths}; rename yours")
        index[name] = cls()
    return index


def _find_in(modules: Iterable[ModuleType], base: type[Plugin]) -> list[type[Plugin]]:
    """Return the concrete subclasses of a class that these modules define."""
    return [
        cls
        for module in modules
        for _, cls in sorted(vars(module).items())
        if isinstance(cls, type)
        and cls.__module__ == module.__name__
        and issubclass(cls, base)
        and not inspect.isabstract(cls)
    ]


def summary_of(cls: type) -> tuple[str, str]:
    """Return the first line of a plug-in's docstring, and its paragraph `Source:`."""
    lines = (inspect.getdoc(cls) or "").splitlines() or [""]
    return lines[0], paragraph_of(cls, "Source:")


@lru_cache(maxsize=1000)
def read_docstring(path: str) -> str:
    """Return the docstring of a class from its source file, or an empty string.

    Nothing is imported, so the report can quote a plug-in without its dependencies (PyTorch).

    Args:
        path: Dotted path, such as `clients.sign_flip.SignFlipClient`, inside `PACKAGES` or a
            module of the user's.
    """
    node = _find_class(path)
    return "" if node is None else ast.get_docstring(node) or ""


@lru_cache(maxsize=1000)
def read_defaults(path: str) -> dict[str, Any]:
    """Return the defaults of a dataclass's fields from its source file, without importing it.

    Fields whose default is not a constant, or a quotient such as 8 / 255, are left out, and so
    are those of parent classes.

    Args:
        path: As for `read_docstring`.
    """
    node = _find_class(path)
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)] if node else []
    found = {}
    for field in fields:
        if isinstance(field.target, ast.Name) and field.value is not None:
            try:
                found[field.target.id] = _evaluate(field.value)
            except ValueError:
                continue
    return found


def _evaluate(node: ast.expr) -> Any:
    """Return the value of a constant or of a quotient of constants; a ValueError for others."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return ast.literal_eval(node.left) / ast.literal_eval(node.right)
    value = ast.literal_eval(node)
    return list(value) if isinstance(value, tuple) else value  # as in JSON


def _find_class(path: str) -> ast.ClassDef | None:
    """Return the definition of a class in its source file, or None if there is none."""
    module, _, name = RENAMED.get(path, path).rpartition(".")
    package, *parts = module.split(".")
    if not all(map(str.isidentifier, [package, *parts, name])):
        return None
    file = user_modules.find_file(module)
    if package in PACKAGES and parts:
        root = Path(importlib.import_module(package).__path__[0])
        file = root.joinpath(*parts).with_suffix(".py")
    if file is None or not file.is_file():
        return None
    classes = (node for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.ClassDef))
    return next((node for node in classes if node.name == name), None)


def paragraph_of(cls: type, opening: str) -> str:
    """Return the paragraph of a plug-in's docstring that starts with `opening`, without it."""
    return find_paragraph(inspect.getdoc(cls) or "", opening)


def find_paragraph(text: str, opening: str) -> str:
    """Return the paragraph of a text that starts with `opening`, without it."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(opening)), len(lines))
    words = takewhile(str.strip, lines[start:])
    return " ".join(line.strip() for line in words).removeprefix(opening).strip()
