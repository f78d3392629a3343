"""Modules of users that hold plug-ins of their own, outside the packages of this project.

A module is declared by its name or path (`declare`, the option `--plugins`), by the variable
`FL_SIM_PLUGINS`, by an entry point of an installed package in a group such as
`fl_sim.strategies`, by an import of an experiment file that lies beside it, or by an object of it
in an experiment. JSON can name classes of declared modules only, so that reading a file of results
never runs code that nobody asked for.
"""

import ast
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeVar

from fl_sim.core.errors import RequestError

VARIABLE = "FL_SIM_PLUGINS"  # names or paths of modules, separated as in PYTHONPATH
PACKAGES = ("fl_sim", "strategies", "clients")  # those of this project
Value = TypeVar("Value")


class Declared(NamedTuple):
    """A module of the user's.

    Attributes:
        name: Its name.
        folder: The folder in which Python finds the first part of the name.
        whole: Whether the modules below it are declared as well, if it is a package.
    """

    name: str
    folder: str
    whole: bool = True


_declared: dict[str, Declared] = {}  # in this process, beside the variable and entry points


def declare(*texts: str, source: str = "--plugins") -> list[str]:
    """Declare modules or packages, without importing them yet, and return their names.

    Args:
        texts: Names, such as `mylab` or `mylab.rules`, or paths, such as `lab/mylab.py`. A name is
            looked up in the working folder first, then on Python's path.
        source: Beginning of an error message.

    Raises:
        RequestError: If there is no such module.
    """
    found = [_locate(text, source) for text in texts]
    for module in found:
        _add(module, source)
    return [module.name for module in found]


def declare_imports(source: bytes, folder: Path) -> None:
    """Declare the modules in a folder that a Python file beside them imports, or that they import.

    Raises:
        RequestError: If another module of the same name was imported before.
    """
    waiting, done = _list_imports(source, ""), set[str]()
    while waiting:
        name = waiting.pop(0)
        top = name.partition(".")[0]
        if name in done or top in PACKAGES or _find_place(folder, name) is None:
            continue
        loaded = _folder_of(sys.modules[top]) if top in sys.modules else folder
        if loaded is None or not os.path.samefile(loaded, folder):
            raise RequestError(
                f"{folder}: a module {top} was imported from {loaded} before; rename one of them"
            )
        _add(Declared(name, str(folder), whole=False), str(folder))
        done.add(name)
        waiting += _read_module(name, str(find_file(name)))[1]


def declare_class(cls: type) -> bool:
    """Declare the module of a class that is in use; return whether others can import it, too."""
    name = cls.__module__
    module = sys.modules.get(name)
    if name.partition(".")[0] in PACKAGES or getattr(module, cls.__qualname__, None) is not cls:
        return False
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # such as that of `__main__`
        return False
    if spec is None or spec.origin is None or spec.origin != getattr(module, "__file__", None):
        return False
    _add(_locate(name, name)._replace(whole=False), name)
    return True


def declared() -> tuple[Declared, ...]:
    """Return all declared modules, for `adopt` in another process."""
    text = os.environ.get(VARIABLE, "")
    return (*(_from_environment(text, os.getcwd()) if text else ()), *_declared.values())


def adopt(modules: tuple[Declared, ...]) -> None:
    """Declare modules as another process has them; the folders have to exist here, too."""
    for module in modules:
        _add(module, module.name)


@contextmanager
def exported() -> Iterator[None]:
    """Set the variable so that processes started in the block declare the same modules.

    The folders reach them through Python's path.
    """
    before = os.environ.get(VARIABLE)
    texts = (module.name if module.whole else str(find_file(module.name)) for module in declared())
    os.environ[VARIABLE] = os.pathsep.join(texts)
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def list_declared() -> dict[str, bool]:
    """Return the names of all modules, those of entry points included, and whether as a whole."""
    return dict.fromkeys(_list_entry_points(), True) | {m.name: m.whole for m in declared()}


def is_declared(module: str) -> bool:
    """Return whether a module is declared, or in a declared package."""
    return any(
        module == name or (whole and module.startswith(f"{name}."))
        for name, whole in list_declared().items()
    )


def import_modules() -> list[ModuleType]:
    """Import all declared modules, and those in declared packages except tests.

    Raises:
        RequestError: If one of them cannot be imported, with the place and the cause.
    """
    found = dict[str, ModuleType]()
    for name, whole in list_declared().items():
        module = import_module(name)
        found |= {each.__name__: each for each in (_walk(module) if whole else [module])}
    return list(found.values())


def import_module(name: str) -> ModuleType:
    """Return a module.

    Raises:
        RequestError: If it cannot be imported, or is another one than was declared.
    """
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        where = "" if place.filename.startswith("<") else f" ({place.filename}:{place.lineno})"
        raise RequestError(f"plug-ins {name} cannot be imported: {cause}{where}") from None
    folder = next((each.folder for each in declared() if each.name == name), None)
    found = _folder_of(module)
    if folder is not None and found is not None and not os.path.samefile(folder, found):
        raise RequestError(f"plug-ins {name} are in {folder}, but {found} has a module {name}, too")
    return module


def cache_by_modules(function: Callable[[], Value]) -> Callable[[], Value]:
    """Return a function whose value is kept until other modules are declared."""
    cached = lru_cache(maxsize=1)(lambda modules: function())
    return wraps(function)(lambda: cached(declared()))


def hash_modules(names: Iterable[str]) -> str:
    """Return `module:SHA-256` of those of these modules that are declared, or an empty string.

    Modules of the user's that they import are included.
    """
    hashes: dict[str, str] = {}
    waiting = [name for name in names if is_declared(name)]
    while waiting:
        name = waiting.pop()
        if name not in hashes:
            hashes[name], imported = _read_module(name, str(find_file(name)))
            waiting += imported
    return " ".join(f"{name}:{sha256}" for name, sha256 in sorted(hashes.items()))


def find_changed(before: str, now: str) -> list[str]:
    """Return the modules that have different hashes in two texts of `hash_modules`."""
    old, new = (dict(word.split(":") for word in text.split()) for text in (before, now))
    return [name for name in old if new.get(name, old[name]) != old[name]]


def find_file(module: str) -> Path | None:
    """Return the file of a module of the user's without importing it, or None for any other."""
    home = _find_home(module)
    place = None if home is None else _find_place(home, module)
    file = place / "__init__.py" if place is not None and place.is_dir() else place
    return file if file is not None and file.is_file() else None


def refuse_foreign_packages(*folders: Path) -> None:
    """Raise a `RequestError` if another package has the name of one of this project's.

    Args:
        folders: Folders that are to come first on Python's path.
    """
    for name in PACKAGES[1:]:
        places = [place for folder in folders if (place := _find_place(folder, name)) is not None]
        places = places or list(map(Path, _list_places(name)))
        if places and not (places[0] / "_shared").is_dir():
            raise RequestError(
                f"{places[0]} hides the package {name!r} of fl-sim, which has the same name: "
                "rename it, or take its folder off Python's path"
            )


@lru_cache(maxsize=8)
def _from_environment(text: str, working_folder: str) -> tuple[Declared, ...]:
    found = [_locate(part, VARIABLE) for part in text.split(os.pathsep) if part]
    for module in found:
        _insert(module, VARIABLE)
    return tuple(found)


@lru_cache(maxsize=1)
def _list_entry_points() -> list[str]:
    """Return the modules of entry points in groups `fl_sim....`."""
    everything = entry_points()
    groups = sorted(group for group in everything.groups if group.startswith("fl_sim."))
    return list(dict.fromkeys(e.module for group in groups for e in everything.select(group=group)))


def _add(module: Declared, source: str) -> None:
    _insert(module, source)
    before = _declared.get(module.name)
    _declared[module.name] = module._replace(whole=module.whole or bool(before and before.whole))


def _insert(module: Declared, source: str) -> None:
    if module.name.partition(".")[0] in PACKAGES:
        raise RequestError(f"{source}: {module.name} is part of fl-sim, which is always found")
    if module.folder not in sys.path:
        refuse_foreign_packages(Path(module.folder))
        sys.path.insert(0, module.folder)


def _locate(text: str, source: str) -> Declared:
    """Return the module of a name or a path."""
    if os.sep in text or text.endswith(".py"):
        return _locate_path(Path(text).expanduser().resolve(), source)
    top, here = text.partition(".")[0], Path.cwd()
    if all(part.isidentifier() for part in text.split(".")):
        if _find_place(here, top) is not None:
            return Declared(text, str(here))
        places = _list_places(top)
        if places:
            return Declared(text, str(Path(places[0]).parent))
    raise RequestError(f"{source}: there is no module {text!r} in {here} or on Python's path")


def _locate_path(path: Path, source: str) -> Declared:
    whole = path.name != "__init__.py"
    path = path if whole else path.parent
    parts, folder = [path.stem if path.is_file() else path.name], path.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    name = ".".join(parts)
    if not all(map(str.isidentifier, parts)) or _find_place(folder, name) != path:
        raise RequestError(f"{source}: {path} is no Python file or package that can be imported")
    return Declared(name, str(folder), whole)


def _find_place(folder: Path, module: str) -> Path | None:
    """Return the file or the package folder of a module below a folder, or None."""
    place = folder.joinpath(*module.split("."))
    if place.is_dir() and any(place.glob("*.py")):
        return place
    file = place.with_name(f"{place.name}.py")
    return file if file.is_file() else None


def _list_places(name: str) -> list[str]:
    """Return the folders of a package on Python's path, or the file of a module, if it exists."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return []
    return list(spec.submodule_search_locations or filter(None, [spec.origin]))


def _folder_of(module: ModuleType) -> Path | None:
    """Return the folder in which Python finds the first part of an imported module."""
    place = next(iter(getattr(module, "__path__", ())), None) or getattr(module, "__file__", None)
    return None if place is None else Path(place).parents[module.__name__.count(".")]


def _find_home(module: str) -> Path | None:
    """Return the folder in which Python finds the first part of a module of the user's, or None."""
    top = module.partition(".")[0]
    for own in declared():
        if own.name.partition(".")[0] == top:
            return Path(own.folder)
    for name in _list_entry_points():
        if name.partition(".")[0] == top:
            return Path(_locate(name, name).folder)
    folders = (Path(own.folder) for own in declared() if "-packages" not in own.folder)
    found = (folder for folder in folders if _find_place(folder, top) is not None)
    return None if top in PACKAGES else next(found, None)


def _walk(module: ModuleType) -> Iterator[ModuleType]:
    """Yield a module and all that are below it, except tests."""
    yield module
    for info in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{module.__name__}."):
        last = info.name.rpartition(".")[2]
        if not last.startswith(("test", "conftest", "__")):
            yield from _walk(import_module(info.name))


@lru_cache(maxsize=1000)
def _read_module(name: str, file: str) -> tuple[str, list[str]]:
    """Return the SHA-256 of a module's file, and the modules of the user's that it imports.

    It is read once per process, since an imported module stays as it is if the file is edited.
    """
    source = Path(file).read_bytes() if Path(file).is_file() else b""
    package = name if Path(file).name == "__init__.py" else name.rpartition(".")[0]
    imported = [other for other in _list_imports(source, package) if find_file(other) is not None]
    return hashlib.sha256(source).hexdigest(), imported


def _list_imports(source: bytes, package: str) -> list[str]:
    """Return the names that may be modules in the imports of a file's text."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # reported when it is run
        return []
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return list(dict.fromkeys(names))
