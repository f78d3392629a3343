"""Find plug-ins by walking their package: nothing to register, nothing to edit."""

import ast
import importlib
import inspect
import pkgutil
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TypeVar

PACKAGES = ("fl_sim", "strategies", "clients")  # what parts of an experiment are defined in
RENAMED = {  # classes by the path that run ids were made with, and where they are now
    "fl_sim.participants.Stay": "fl_sim.participants.AvailabilityWindow",
}
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


@lru_cache(maxsize=1000)
def read_docstring(path: str) -> str:
    """Return the docstring of a class, out of the file that defines it; nothing is imported.

    So the report can quote a plug-in without what the plug-in itself needs, such as PyTorch.

    Args:
        path: dotted, such as `clients.sign_flip.SignFlipClient`, inside `PACKAGES`.

    Returns:
        the text without its indentation; "" where there is no such class, or it has none.
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
    found = next((node for node in classes if node.name == name), None)
    return "" if found is None else ast.get_docstring(found) or ""


def paragraph_of(cls: type, opening: str) -> str:
    """Return the paragraph of a plug-in's docstring that opens so, without its opening."""
    return find_paragraph(inspect.getdoc(cls) or "", opening)


def find_paragraph(text: str, opening: str) -> str:
    """Return the paragraph of a docstring that opens so, without its opening."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(opening)), len(lines))
    words = takewhile(str.strip, lines[start:])
    return " ".join(line.strip() for line in words).removeprefix(opening).strip()
