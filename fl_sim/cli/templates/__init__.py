"""Files to start from: a plug-in or an experiment with its test, or a shipped experiment."""

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template

import fl_sim
from fl_sim.core.errors import RequestError, require, shorten, suggest

HERE = Path(__file__).parent


def write(kind: str | None, name: str | None, shipped: str | None, out: Path) -> list[str]:
    """Write a file and its test, or copy a shipped experiment; return lines for the user.

    Args:
        kind: Kind of the plug-in, or `experiment`; None for a copy.
        name: Name of the class or of the file; None for a copy under its own name.
        shipped: Name of a shipped experiment, or None.
        out: Folder, which is made if it is missing.

    Raises:
        RequestError: If the name is no Python name or taken, or a file exists already.
    """
    if shipped is not None:
        require(kind is None and name is None, "fl-sim new --from", "no KIND and NAME", kind)
        return _copy(shipped, out)
    if kind is None or name is None:
        raise RequestError("fl-sim new takes KIND and NAME, such as strategy MyRule, or --from")
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    if not name.isidentifier() or keyword.iskeyword(name) or not words or words[0].isdigit():
        raise RequestError(f"NAME: a Python name in ASCII such as MyRule; got {shorten(name)}")
    module = "_".join(words).lower()
    if importlib.util.find_spec(module) is not None:
        raise RequestError(f"NAME: another one, since Python has a module {module}; got {name!r}")
    cls = name if name[0].isupper() else "".join(word.title() for word in words)
    if kind != "experiment" and cls in find_names(kind):
        raise RequestError(f"NAME: another one, since there is a {kind} {cls}; got {name!r}")
    texts = {
        out / f"{prefix}{module}.py": Template((HERE / f"{prefix}{kind}.txt").read_text())
        for prefix in ("", "test_")
    }
    _create({path: text.substitute(cls=cls, module=module) for path, text in texts.items()})
    use = f"--plugins {out / module}.py" if out != Path() else f"--plugins {module}"
    lines = [f"wrote {path}" for path in texts]
    lines.append(f"test it: python -m pytest {out / f'test_{module}.py'}")
    if kind == "experiment":
        return [*lines, f"run it: fl-sim sweep {out / f'{module}.py'}"]
    lines.append(f"check it: fl-sim check {use.removeprefix('--plugins ')}")
    if kind in ("strategy", "client", "protection"):
        return [*lines, f"use it: fl-sim run FILE {use} --set {kind}={cls}"]
    return [*lines, f"use it: fl-sim run FILE {use}"]


def find_names(kind: str) -> list[str]:
    """Return the class names of all plug-ins of a kind."""
    from fl_sim.cli import catalogue, descriptions  # seconds, since they import torch

    plurals = {one: many for many, one in descriptions.SINGULAR.items()}
    return list(catalogue.list_classes(plurals[kind]))


def find_shipped() -> dict[str, Path]:
    """Return the shipped experiments by name."""
    package = Path(fl_sim.__file__).parent
    inside = package / "experiments"
    folder = inside if inside.is_dir() else package.parent / "experiments"  # of the repository
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def _copy(name: str, out: Path) -> list[str]:
    known = find_shipped()
    if name not in known:
        allowed = f"one of {', '.join(known)}{suggest(name, known)}"
        raise RequestError(f"--from: {allowed}; got {shorten(name)}")
    target = out / f"{name}.py"
    _create({target: known[name].read_text("utf-8")})
    return [f"wrote {target}", f"run it: fl-sim sweep {target}"]


def _create(files: dict[Path, str]) -> None:
    """Write new files, or none of them if one exists.

    Raises:
        RequestError: If one exists, or cannot be written.
    """
    for path in files:
        if path.exists() or path.is_symlink():
            raise RequestError(f"{path} exists, and is not overwritten")
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise RequestError(f"cannot write {path}: {error.strerror}") from None
