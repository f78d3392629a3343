"""Files that a user wrote, read and executed: whatever is wrong with one is a `RequestError`.

An experiment file is code, as a Makefile is. What it raises is a fault of the file, so it is said
in one line, with the file's own line and what is allowed there; a fault of ours keeps its
traceback.
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

from fl_sim.core import serialization
from fl_sim.core.errors import RequestError, UnknownFieldError, suggest
from fl_sim.core.plugins import discover

HOMES = ("clients", "strategies", "fl_sim.protections", "fl_sim.countermeasures", "fl_sim.data")
LARGEST_FILE = 32 * 2**20  # bytes; an experiment takes a few thousand
LONGEST_MESSAGE = 2000  # characters of what an exception of a user's file says


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        RequestError: naming the file, where there is none, or it cannot be read.
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
    """Return the content of a file in UTF-8.

    Raises:
        RequestError: naming the file, for anything else.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not text in UTF-8: {error.reason} at {error.start}"
        ) from None


def load_python(path: Path) -> ModuleType:
    """Run a Python file, and return what it defines.

    Raises:
        RequestError: for a file that is missing or not Python, and for whatever it raises but
            `KeyboardInterrupt`; it names the line, and what is allowed.
    """
    source = read_bytes(path)
    loader = SourceFileLoader(f"experiment_{path.stem}", str(path))
    spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
    if path.suffix != ".py" or spec is None:
        raise RequestError(f"{path} is no Python file, nor JSON: its name ends in {path.suffix!r}")
    module = importlib.util.module_from_spec(spec)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        with _delay_warnings():
            exec(compile(source, str(path), "exec", dont_inherit=True), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: the file's fault, not the end of the program
        raise RequestError(_describe_error(path, error)) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    return module


@contextmanager
def _delay_warnings() -> Iterator[None]:
    """Show warnings once the file has run; where it fails, its failure is all that matters."""
    held: list[tuple[Any, ...]] = []

    def hold(*warning: Any) -> None:
        held.append(warning)

    before = warnings.showwarning
    warnings.showwarning = hold  # type: ignore[assignment]
    try:
        yield
    finally:
        if warnings.showwarning is hold:
            warnings.showwarning = before
    for warning in held:
        warnings.showwarning(*warning)


def locate(path: Path, name: str) -> str:
    """Return `file:line` of the last assignment to a name at the top of a Python file."""
    lines = [node.lineno for node in ast.parse(read_bytes(path)).body if _assigns(node, name)]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _assigns(node: ast.stmt, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(own, ast.Name) and own.id == name for own in targets)


def _describe_error(path: Path, error: BaseException) -> str:
    """Return one line: where in the file, what is wrong, and what is allowed."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        place = "" if error.lineno is None else f":{error.lineno}"
        return f"{path}{place}: {_shorten(str(error.msg))}"
    call = _find_call(path, error)
    place = f"{path}:{call.tb_lineno}" if call else str(path)
    return f"{place}: {_shorten(_explain(error, call))}"


def _find_call(path: Path, error: BaseException) -> TracebackType | None:
    """Return the innermost call of the file itself that went wrong."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = trace
        trace = trace.tb_next
    return found


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."


def _explain(error: BaseException, call: TracebackType | None) -> str:
    """Return what went wrong in words, with what the file may have meant."""
    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"the file ends the program, with exit code {error.code!r}; it may only name things"
    try:
        words = re.sub(r" \(/.*\)$", "", str(error))  # where an imported module lies
    except Exception:  # of a class of the user's own
        words = ""
    cls = _find_called_class(words, call) if isinstance(error, TypeError) and call else None
    if cls is not None:
        return _explain_arguments(words, cls)
    name = type(error).__name__
    return f"{name}: {words}{_suggest(error, words, call)}" if words else name


def _suggest(error: BaseException, words: str, call: TracebackType | None) -> str:
    """Return what may have been meant: a name, an attribute, or something to import."""
    if isinstance(error, NameError) and call is not None:
        frame = call.tb_frame
        return suggest(str(error.name), {*frame.f_globals, *frame.f_locals, *dir(builtins)})
    if isinstance(error, AttributeError):
        return suggest(str(error.name), dir(error.obj)) if error.name else ""
    if isinstance(error, ImportError):
        return _suggest_module(call) or _suggest_import(error, words)
    return ""


def _explain_arguments(words: str, cls: type) -> str:
    """Return what a class takes, where Python says that it did not take its arguments."""
    known = serialization.argument_names_of(cls)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", words)
    if unknown:
        return UnknownFieldError("", cls.__name__, known, unknown[1]).words
    complaint = re.sub(r"^.*\.__init__\(\) ", "", words)
    return f"{cls.__name__}: {complaint}; it has {', '.join(known) or 'no fields'}"


def _find_called_class(words: str, call: TracebackType) -> type | None:
    """Return the part of an experiment whose constructor did not take its arguments."""
    found = re.match(r"(?:(\w+)\.__init__\(\) )?(?:got an unexpected|missing|takes) ", words)
    if found is None:
        return None
    cls = _find_callee(call) or (_find_class(found[1]) if found[1] else None)
    return cls if isinstance(cls, type) and serialization.is_part(cls) else None


def _find_callee(call: TracebackType) -> Any:
    """Return what was called, by its name in the file; None where it has none."""
    frame = call.tb_frame
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
    found = (frame.f_globals | frame.f_locals).get(getattr(node, "id", ""))
    for name in path:
        found = getattr(found, name, None)
    return found


def _find_class(name: str) -> type | None:
    """Return the class of this name in what was imported, such as one that `replace` made."""
    tops = (*serialization.PACKAGES, "flwr")
    there = (vars(module) for own, module in list(sys.modules.items()) if own.split(".")[0] in tops)
    return next((space[name] for space in there if isinstance(space.get(name), type)), None)


def _suggest_module(call: TracebackType | None) -> str:
    """Return where the first plug-in is that a failed line of the file imports from elsewhere."""
    if call is None:
        return ""
    tree = ast.parse(read_bytes(Path(call.tb_frame.f_code.co_filename)))
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    line = next((node for node in lines if node.lineno == call.tb_lineno), None)
    sought = [alias.name for alias in line.names] if line else []
    homes = {cls.__name__: cls.__module__ for own in HOMES for cls in discover(own, object)}
    found = next((n for n in sought if line and homes.get(n, line.module) != line.module), "")
    return f"; {found} is in {homes[found]}" if found else ""


def _suggest_import(error: ImportError, words: str) -> str:
    """Return what there is to import instead."""
    found = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", words)
    if found is not None and found[2] in sys.modules:
        return suggest(found[1], dir(sys.modules[found[2]]))
    package = str(error.name or "").rpartition(".")[0]
    path = getattr(sys.modules.get(package), "__path__", None)
    there = [info.name for info in pkgutil.iter_modules(path, f"{package}.")] if path else []
    return suggest(str(error.name), there)
