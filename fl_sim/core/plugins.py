"""Discovers plug-ins in their packages, without a registry, and reads their docstrings."""

import ast
import importlib
import inspect
import pkgutil
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

PACKAGES = ("fl_sim", "strategies", "clients")  # packages that define parts of an experiment
RENAMED = {  # paths in the JSON of earlier results, which run ids hash, and current paths
    "fl_sim.participants.Stay": "fl_sim.participants.AvailabilityWindow",
}
Plugin = TypeVar("Plugin")


def discover(package: str, base: type[Plugin]) -> list[type[Plugin]]:
    """Return every concrete subclass of `base` defined in `package`, sorted by name."""
    root = importlib.import_module(package)
    plugins: set[type[Plugin]] = set()
    for module_info in pkgutil.iter_modules(root.__path__, f"{package}."):
        module = importlib.import_module(module_info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if (
                issubclass(cls, base)
                and not inspect.isabstract(cls)
                and cls.__module__ == module.__name__
            ):
                plugins.add(cls)
    return sorted(plugins, key=lambda cls: cls.__name__)


def summary_of(cls: type) -> tuple[str, str]:
    """Return the first line of a plug-in's docstring, and its paragraph `Source:`."""
    lines = (inspect.getdoc(cls) or "").splitlines() or [""]
    return lines[0], paragraph_of(cls, "Source:")


@lru_cache(maxsize=1000)
def read_docstring(path: str) -> str:
    """Return the docstring of a class from its source file, or an empty string.

    Nothing is imported, so the report can quote a plug-in without its dependencies (PyTorch).

    Args:
        path: Dotted path inside `PACKAGES`, such as `clients.sign_flip.SignFlipClient`.
    """
    package, *parts = RENAMED.get(path, path).split(".")
    if package not in PACKAGES or len(parts) < 2 or not all(map(str.isidentifier, parts)):
        return ""
    *modules, name = parts
    root = Path(importlib.import_module(package).__path__[0])
    file = root.joinpath(*modules).with_suffix(".py")
    if not file.is_file():
        return ""
    classes = (node for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.ClassDef))
    node = next((node for node in classes if node.name == name), None)
    return "" if node is None else ast.get_docstring(node) or ""


def paragraph_of(cls: type, opening: str) -> str:
    """Return the paragraph of a plug-in's docstring that starts with `opening`, without it."""
    return find_paragraph(inspect.getdoc(cls) or "", opening)


def find_paragraph(text: str, opening: str) -> str:
    """Return the paragraph of a text that starts with `opening`, without it."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(opening)), len(lines))
    words = takewhile(str.strip, lines[start:])
    return " ".join(line.strip() for line in words).removeprefix(opening).strip()
