"""What is asked of `fl-sim protect`, and what can be refused before any work."""

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
from fl_sim.core.errors import RequestError, RequestWarning, RunFailedError
from fl_sim.core.locks import refuse_unwritable
from fl_sim.core.plugins import discover
from fl_sim.core.serialization import describe, with_value
from fl_sim.models.surrogate import find_obstacle

MANIFEST, JOURNAL, STARTED = "manifest.json", "journal.jsonl", "request.json"


@dataclass(frozen=True)
class Request:
    """One call of `fl-sim protect`.

    Attributes:
        source: folder of images, or an .npz file.
        out: folder that the protected images go to.
        protection: the method and its parameters.
        seed: of the noise; keep it to yourself.
        labels: CSV of labels; None: one folder a class.
        side: images are scaled to this side for making the noise, and the noise back to each
            image; None: the noise is made at the images' own size, which has to be one size.
        split: the part that is protected, such as train; None: all of them.
        folders: what the levels of the folder name, such as `split/label`; None: what their
            names say.
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
        """Return what the result depends on, apart from the images, as plain JSON values."""
        return {
            "protection": describe(self.protection),
            "method": self.name,
            "seed": self.seed,
            "side": self.side,
            "split": self.split,
            **({} if self.folders is None else {"folders": self.folders}),
        }


def parse_method(name: str, radius: str | None, settings: list[str]) -> Protection:
    """Return the protection of this name, such as `sem`, with its fields set.

    Args:
        name: short name or class name, upper or lower case.
        radius: such as `8/255`; None: the method's default.
        settings: further fields, as `field=value`.

    Raises:
        RequestError: for an unknown method or a field that does not fit.
    """
    known = discover("fl_sim.protections", Protection)  # type: ignore[type-abstract]
    by_name = {cls.short or cls.__name__: cls for cls in known}
    found = [c for c in known if name.lower() in (c.short.lower(), c.__name__.lower())]
    if not found:
        raise RequestError(f"--method: one of {', '.join(sorted(by_name))}; got {name!r}")
    protection = found[0]()
    changes = [*settings, *([f"radius={radius}"] if radius is not None else [])]
    for change in changes:
        field, separator, text = change.partition("=")
        if not separator:
            raise RequestError(f"--set takes field=value, such as noise_steps=5; got {change!r}")
        protection = with_value(protection, field, parse_value(text))
    return protection


def check_paths(request: Request) -> None:
    """Refuse an input that is missing, and an output that is inside it, around it or read-only.

    Raises:
        RequestError: naming them.
    """
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
        request: with the method.
        images: at the size at which the noise is made.
        labels: of the images.

    Raises:
        RequestError: for fewer or more classes than the method can tell apart, or images too
            small for it.
    """
    classes = sorted(set(labels))
    _, channels, height, width = images.shape
    cause = find_obstacle(request.protection, (channels, height, width), len(classes))
    if cause:
        found = f"{len(images)} images of {', '.join(map(repr, classes[:3]))}"
        more = ", ..." if len(classes) > 3 else ""
        raise RequestError(
            f"INPUT: {request.name} cannot protect these: {cause}; got {found}{more}"
        )
    advice = request.protection.advice(len(images))
    if advice:
        warnings.warn(advice, RequestWarning, stacklevel=2)


def prepare_out(out: Path, wanted_bytes: int) -> None:
    """Make the output folder, and see that it can be written, has the room, and holds no links.

    Raises:
        RequestError: where it cannot be written, the disk is too full, or a link would lead
            what is written somewhere else.
    """
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
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
    """Yield every link below a folder; none is followed."""
    for place, folders, names in os.walk(folder):
        found = [Path(place) / name for name in sorted([*folders, *names])]
        yield from (path for path in found if path.is_symlink())


@contextmanager
def wrap_write_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is written into one clear error.

    Raises:
        RunFailedError: for a full disk, or one that cannot be written.
    """
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
    """Write a file so that it is there whole or not at all, with the folders above it.

    Args:
        path: of the file; a link there is replaced, not followed.
        content: of the file.
        private: only its owner may read it (mode 600), since it helps to undo the protection.

    Raises:
        RunFailedError: for a full disk, or one that cannot be written.
    """
    with wrap_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content, private=private)
