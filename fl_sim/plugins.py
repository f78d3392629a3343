"""Find plug-ins by walking their package: nothing to register, nothing to edit."""

import importlib
import inspect
import pkgutil
from itertools import takewhile
from typing import TypeVar

Plugin = TypeVar("Plugin")


def discover(package: str, base: type[Plugin]) -> list[type[Plugin]]:
    """Return every concrete subclass of `base` defined in `package`, sorted by name."""
    root = importlib.import_module(package)
    found: set[type[Plugin]] = set()
    for module_info in pkgutil.iter_modules(root.__path__, f"{package}."):
        module = importlib.import_module(module_info.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if (
                issubclass(cls, base)
                and not inspect.isabstract(cls)
                and cls.__module__ == module.__name__
            ):
                found.add(cls)
    return sorted(found, key=lambda cls: cls.__name__)


def summary_of(cls: type) -> tuple[str, str]:
    """Return the first line of a plug-in's docstring, and what follows `Source:` in it."""
    lines = (inspect.getdoc(cls) or "").splitlines() or [""]
    return lines[0], paragraph_of(cls, "Source:")


def paragraph_of(cls: type, opening: str) -> str:
    """Return the paragraph of a plug-in's docstring that opens so, without its opening."""
    lines = (inspect.getdoc(cls) or "").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(opening)), len(lines))
    words = takewhile(str.strip, lines[start:])
    return " ".join(line.strip() for line in words).removeprefix(opening).strip()
