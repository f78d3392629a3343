"""Reads and runs Python files of users, and turns their errors into a `RequestError`.

An experiment file is code, as a Makefile is. Its errors are reported in one line, with the line
of the file and the allowed values; errors of this project keep their traceback.
"""

import ast
import builtins
import importlib.util
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from fl_sim.core import serialization, user_modules
from fl_sim.core.errors import RequestError, UnknownFieldError, suggest
from fl_sim.core.names import PACKAGES
from fl_sim.core.plugins import find_classes

LARGEST_FILE = 32 * 2**20  # bytes; an experiment takes a few thousand
LONGEST_MESSAGE = 2000  # characters of the message of an exception in a user's file


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        RequestError: If it is missing or cannot be read, naming the file.
    """
    try:
        if not path.exists():
            raise RequestError(f"there is no experiment file {path}")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise RequestError(f"{path} is {kind}; give a Python file, or experiment.json")
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise RequestError(f"{path}: {size:,} bytes are too many for an experiment file")
        return path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {_shorten(str(path))}: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"cannot read {str(path)!r}: {error}") from None


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        RequestError: If it cannot be read or decoded, naming the file.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not text in UTF-8: {error.reason} at {error.start}"
        ) from None


def load_python(path: Path) -> ModuleType:
    """Run a Python file, and return its module.

    Its folder and the working folder come first on Python's path meanwhile. The folder stays there
    if the file imports modules of it, which are declared as the user's own.

    Raises:
        RequestError: If it is missing or not Python, or raises anything but `KeyboardInterrupt`;
            the message names the line and the allowed values.
    """
    source = read_bytes(path)
    loader = SourceFileLoader(f"experiment_{path.stem}", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    if path.suffix != ".py" or spec is None:
        raise RequestError(f"{path} is no Python file, nor JSON: its name ends in {path.suffix!r}")
    module = importlib.util.module_from_spec(spec)
    folder = path.resolve().parent
    places = [folder, Path.cwd()]
    user_modules.refuse_foreign_packages(*places)
    user_modules.declare_imports(source, folder)
    sys.path[:0] = map(str, places)
    try:
        with _delay_warnings():
            exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: the file's fault, not the end of the program
        raise RequestError(_describe_error(path, error)) from error
    finally:
        for place in map(str, places):
            if place in sys.path:
                sys.path.remove(place)
    return module


@contextmanager
def _delay_warnings() -> Iterator[None]:
    """Show warnings after the block has run; drop them if it fails, so that one line remains."""
    delayed: list[tuple[Any, ...]] = []

    def delay(*warning: Any) -> None:
        delayed.append(warning)

    before = warnings.showwarning
    warnings.showwarning = delay  # type: ignore[assignment]
    try:
        yield
    finally:
        if warnings.showwarning is delay:
            warnings.showwarning = before
    for warning in delayed:
        warnings.showwarning(*warning)


def locate(path: Path, name: str) -> str:
    """Return `file:line` of the last assignment to a name at the top of a Python file."""
    lines = [node.lineno for node in ast.parse(read_bytes(path)).body if _assigns(node, name)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _describe_error(path: Path, error: BaseException) -> str:
    """Return one line: the place in the file, the error, and the allowed values."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        place = "" if error.lineno is None else f":{error.lineno}"
        return f"{path}{place}: {_shorten(str(error.msg))}"
    call = _find_call(path, error)
    place = f"{path}:{call.tb_lineno}" if call else str(path)
    return f"{place}: {_shorten(_explain(error, call))}"


def _find_call(path: Path, error: BaseException) -> TracebackType | None:
    """Return the innermost traceback entry inside the file, or None."""
    innermost, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            innermost = trace
        trace = trace.tb_next
    return innermost


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."


def _explain(error: BaseException, call: TracebackType | None) -> str:
    """Describe an error, with a suggestion if there is one."""
    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the file ends the program, with exit code {error.code!r}; it may only name things"
    try:
        words = re.sub(r" \(/.*\)$", "", str(error))  # drops the path of an imported module
    except Exception:  # from a class in the user's file
        words = ""
    cls = _find_called_class(words, call) if isinstance(error, TypeError) and call else None
    if cls is not None:
        return _explain_arguments(words, cls)
    name = type(error).__name__
    return f"{name}: {words}{_suggest(error, words, call)}" if words else name


def _suggest(error: BaseException, words: str, call: TracebackType | None) -> str:
    """Suggest a name, an attribute or an import that is close to the missing one."""
    if isinstance(error, NameError) and call is not None:
        frame = call.tb_frame
        return suggest(str(error.name), {*frame.f_globals, *frame.f_locals, *dir(builtins)})
    if isinstance(error, AttributeError):
        return suggest(str(error.name), dir(error.obj)) if error.name else ""
    if isinstance(error, ImportError):
        return _suggest_module(call) or _suggest_import(error, words)
    return ""


def _explain_arguments(words: str, cls: type) -> str:
    """Describe the arguments of a class whose constructor refused the given ones."""
    known = serialization.argument_names_of(cls)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", words)
    if unknown:
        return UnknownFieldError("", cls.__name__, known, unknown[1]).words
    complaint = re.sub(r"^.*\.__init__\(\) ", "", words)
    return f"{cls.__name__}: {complaint}; it has {', '.join(known) or 'no fields'}"


def _find_called_class(words: str, call: TracebackType) -> type | None:
    """Return the part of an experiment whose constructor refused its arguments, or None."""
    match = re.match(r"(?:(\w+)\.__init__\(\) )?(?:got an unexpected|missing|takes) ", words)
    if match is None:
        return None
    cls = _find_callee(call) or (_find_class(match[1]) if match[1] else None)
    return cls if isinstance(cls, type) and serialization.is_part(cls) else None


def _find_callee(call: TracebackType) -> Any:
    """Return the object that a call names in the file, or None."""
    frame = call.tb_frame
    # The position of the failing instruction, whose columns are offsets in UTF-8 bytes.
    places = list(frame.f_code.co_positions())[call.tb_lasti // 2]
    lines = Path(frame.f_code.co_filename).read_text("utf-8-sig").splitlines()
    first, last, start, end = (int(place or 0) for place in places)
    text = "\n".join(lines[first - 1 : last]).encode()
    cut = text[start : len(text) - len(lines[last - 1].encode()) + end].decode()
    try:
        node: Any = ast.parse(f"({cut})", mode="eval").body
    except (SyntaxError, ValueError):
        return None
    node, path = getattr(node, "func", None), list[str]()
    while isinstance(node, ast.Attribute):
        node, path = node.value, [node.attr, *path]
    callee = (frame.f_globals | frame.f_locals).get(getattr(node, "id", ""))
    for name in path:
        callee = getattr(callee, name, None)
    return callee


def _find_class(name: str) -> type | None:
    """Return the class of this name in an imported module, such as one made by `replace`."""
    modules = [
        module
        for path, module in sys.modules.items()
        if path.split(".")[0] == "flwr" or serialization.is_known(path)
    ]
    classes = (vars(module).get(name) for module in modules)
    return next((cls for cls in classes if isinstance(cls, type)), None)


def _suggest_module(call: TracebackType | None) -> str:
    """Suggest the module of a plug-in that a failed import looked for in another one."""
    if call is None:
        return ""
    tree = ast.parse(read_bytes(Path(call.tb_frame.f_code.co_filename)))
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    line = next((node for node in lines if node.lineno == call.tb_lineno), None)
    names = [alias.name for alias in line.names] if line else []
    homes = {
        cls.__name__: cls.__module__ for path in PACKAGES for cls in find_classes(path, object)
    }
    name = next((n for n in names if line and homes.get(n, line.module) != line.module), "")
    return f"; {name} is in {homes[name]}" if name else ""


def _suggest_import(error: ImportError, words: str) -> str:
    """Suggest a name or a module to import instead."""
    match = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", words)
    if match is not None and match[2] in sys.modules:
        return suggest(match[1], dir(sys.modules[match[2]]))
    package = str(error.name or "").rpartition(".")[0]
    path = getattr(sys.modules.get(package), "__path__", None)
    modules = [info.name for info in pkgutil.iter_modules(path, f"{package}.")] if path else []
    return suggest(str(error.name), modules)
