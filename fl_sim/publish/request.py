"""Requests of `fl-sim protect`, and the checks that refuse one before any work."""

import errno
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from fl_sim.config.experiment_file import parse_value
from fl_sim.contracts import Protection
from fl_sim.core.atomic_io import write_bytes
from fl_sim.core.errors import RequestError, RequestWarning, RunFailedError, require
from fl_sim.core.locks import refuse_unwritable
from fl_sim.core.plugins import discover
from fl_sim.core.serialization import describe, with_values
from fl_sim.models.surrogate import find_obstacle

MANIFEST, JOURNAL, STARTED = "manifest.json", "journal.jsonl", "request.json"


@dataclass(frozen=True)
class Request:
    """One call of `fl-sim protect`.

    Attributes:
        source: Folder of images, or an .npz file.
        out: Folder for the protected images.
        protection: The method and its parameters.
        seed: Seed of the noise; keep it secret.
        labels: CSV of labels. If None, there is one folder per class, or a file labels.csv.
        side: Side in pixels that images are scaled to for making the noise, which is then scaled
            back to each image. If None, all images have to be of one size.
        split: The split that is protected, such as train. If None, all of them.
        folders: Levels of the folder, such as `split/label`. If None, they are read from the
            names of the folders.
    """

    source: Path
    out: Path
    protection: Protection
    seed: int = 0
    labels: Path | None = None
    side: int | None = None
    split: str | None = None
    folders: str | None = None

    @property
    def name(self) -> str:
        """Short name of the method."""
        return self.protection.short or type(self.protection).__name__

    def describe(self) -> dict[str, Any]:
        """Return all that the result depends on, apart from the images, as plain JSON values."""
        return {
            "protection": describe(self.protection),
            "method": self.name,
            "seed": self.seed,
            "side": self.side,
            "split": self.split,
            **({} if self.folders is None else {"folders": self.folders}),
        }


def parse_method(
    name: str, radius: str | None, settings: list[str], *, small: bool = False
) -> Protection:
    """Return the protection of this name, such as `sem`, with its fields set.

    Args:
        name: Short name or class name, in upper or lower case.
        radius: Radius such as `8/255`. If None, the method's default.
        settings: Further fields, as `field=value`.
        small: Whether these start from the method's small size.

    Raises:
        RequestError: If the method or a field is unknown, a value does not fit, or there is no
            small size.
    """
    known = discover("fl_sim.protections", Protection)  # type: ignore[type-abstract]
    by_name = {cls.short or cls.__name__: cls for cls in known}
    matches = [c for c in known if name.lower() in (c.short.lower(), c.__name__.lower())]
    if not matches:
        raise RequestError(f"--method: one of {', '.join(sorted(by_name))}; got {name!r}")
    protection = matches[0]()
    if small:
        with_small = ", ".join(sorted(n for n, cls in by_name.items() if cls.small))
        require(bool(protection.small), "--small", f"one of the methods {with_small}", name)
        protection = protection.make_small()
    changes: list[tuple[str, Any]] = []
    for change in [*settings, *([f"radius={radius}"] if radius is not None else [])]:
        field, separator, text = change.partition("=")
        if not separator:
            raise RequestError(f"--set takes field=value, such as noise_steps=5; got {change!r}")
        changes.append((field, parse_value(text)))
    return with_values(protection, changes)


def check_paths(request: Request) -> None:
    """Refuse a missing input, and an output that is read-only, inside the input or around it."""
    refuse_unwritable(request.out)
    source, out = request.source.resolve(), request.out.resolve()
    if not source.exists():
        raise RequestError(f"INPUT: there is no {request.source}")
    if source.is_file() and source.suffix.lower() != ".npz":
        raise RequestError(f"INPUT: a folder of images or an .npz file; got {request.source}")
    if out == source or out.is_relative_to(source) or source.is_relative_to(out):
        raise RequestError(
            f"--out: a folder apart from the input, which is never touched; got {request.out}"
        )


def check_fits(request: Request, images: UInt8[Tensor, "n c h w"], labels: list[str]) -> None:
    """Refuse images that the method cannot protect, and warn of weak noise, before any work.

    Args:
        request: The request, with the method.
        images: Images at the size at which the noise is made.
        labels: Labels of the images.

    Raises:
        RequestError: If there are too few classes for the method, or the images are too small.
    """
    classes = sorted(set(labels))
    _, channels, height, width = images.shape
    cause = find_obstacle(request.protection, (channels, height, width), len(classes))
    if cause:
        got = f"{len(images)} images of {', '.join(map(repr, classes[:3]))}"
        more = ", ..." if len(classes) > 3 else ""
        raise RequestError(f"INPUT: {request.name} cannot protect these: {cause}; got {got}{more}")
    advice = request.protection.advice(len(images))
    if advice:
        warnings.warn(advice, RequestWarning, stacklevel=2)


def prepare_out(out: Path, wanted_bytes: int) -> None:
    """Create the output folder; refuse one that is read-only, has links, or lacks disk space."""
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < wanted_bytes:
        raise RequestError(
            f"--out: the disk of {out} has {free >> 20} MiB free, and up to "
            f"{wanted_bytes >> 20} MiB are needed"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out: cannot write to {out}: {error.strerror}") from None
    refuse_unwritable(out)
    for link in find_links(out):
        raise RequestError(f"--out: {link} is a link, and nothing is written through links")


def find_links(folder: Path) -> Iterator[Path]:
    """Yield the links below a folder; none is followed."""
    for place, folders, names in os.walk(folder):
        paths = (Path(place) / name for name in sorted([*folders, *names]))
        yield from (path for path in paths if path.is_symlink())


@contextmanager
def wrap_write_errors(path: Path) -> Iterator[None]:
    """Raise RunFailedError with a clear cause if `path` cannot be written within the block."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = "the disk is full" if full else str(error.strerror)
        raise RunFailedError(
            f"{path} cannot be written: {cause}; what was written before is kept, and the same "
            f"command goes on from there"
        ) from None


def write_file(path: Path, content: bytes, private: bool = False) -> None:
    """Write a file atomically, with the folders above it.

    Args:
        path: Path of the file; a link there is replaced, not followed.
        content: Content of the file.
        private: If True, only its owner may read it (mode 600), as it helps to undo the protection.

    Raises:
        RunFailedError: If the disk is full or cannot be written.
    """
    with wrap_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content, private=private)
