"""Cache of tensors on disk, keyed by a hash of the inputs and shared by all processes.

It is in `$FL_SIM_CACHE`, or `~/.cache/fl_sim`. Processes that need the same entry wait for the one
that computes it. An entry carries its key and a hash of its content; if either does not match, the
entry is computed anew.
"""

import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor

from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.core.errors import RequestError
from fl_sim.core.portable import is_portable
from fl_sim.core.resumable import resume_from
from fl_sim.core.tensor_files import read_tensors, write_tensors

LOG = logging.getLogger("fl_sim")


def cache_folder() -> Path:
    """Return the folder of the cache; it may not exist yet.

    Raises:
        RequestError: If there is neither `FL_SIM_CACHE` nor a home folder.
    """
    from_environment = os.environ.get("FL_SIM_CACHE")
    if from_environment:
        return Path(from_environment)
    try:
        return Path.home() / ".cache" / "fl_sim"
    except RuntimeError:
        raise RequestError(
            "there is no home folder for the cache: set FL_SIM_CACHE to a folder"
        ) from None


def make_folder(kind: str = "") -> Path:
    """Return the folder of a kind of entries; make it if it is missing.

    Raises:
        RequestError: If it cannot be made, naming FL_SIM_CACHE.
    """
    folder = cache_folder() / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(error) from None
    return folder


def _unusable(error: OSError) -> RequestError:
    return RequestError(
        f"the cache {cache_folder()} cannot be written to ({error.strerror}); set FL_SIM_CACHE to "
        "a folder that can"
    )


def digest(*parts: Tensor | str | int) -> str:
    """Return a hash of tensors (shape, dtype and content), plain values, and the torch build.

    In the portable mode it is another one.
    """
    sha = hashlib.sha256(torch.__version__.encode() + b"portable" * is_portable())
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sha.update(part.contiguous().numpy().data)
        else:
            sha.update(f"{part!r};".encode())
    return sha.hexdigest()[:32]


_storing: ContextVar[bool] = ContextVar("storing", default=True)


@contextmanager
def storing_nothing() -> Iterator[None]:
    """Compute entries inside the block without the cache, as for a rehearsal on a few images."""
    token = _storing.set(False)
    try:
        yield
    finally:
        _storing.reset(token)


def is_storing() -> bool:
    """Return whether results may be kept in the cache here."""
    return _storing.get()


def is_stored(kind: str, key: str) -> bool:
    """Return whether there is an entry `key` of `kind`; it is not read."""
    return (cache_folder() / kind / _name_entry(key)).exists()


def _name_entry(key: str) -> str:
    return f"{key}.safetensors"


def load_or_compute(kind: str, key: str, compute: Callable[[], Tensor]) -> Tensor:
    """Return the entry `key` of `kind`; compute and store it if there is none.

    An interrupted computation resumes from its last checkpoint the next time. An entry that was
    changed since it was written is computed anew, with a warning that names its file.

    Raises:
        RequestError: If it has to be stored and the cache cannot be written to.
    """
    if not is_storing():
        return compute().contiguous()
    path = make_folder(kind) / _name_entry(key)
    metadata = {"entry": f"{kind}/{key}"}
    with lock_entry(path):
        cached = _read_entry(path, metadata)
        if cached is not None:
            return cached
        work = path.with_suffix(".work")
        with resume_from(work):
            entry = compute().contiguous()
        try:
            write_tensors(path, {"entry": entry}, metadata)
        except OSError as error:
            raise _unusable(error) from None
        shutil.rmtree(work, ignore_errors=True)
        return read_tensors(path)[0]["entry"]


def _read_entry(path: Path, metadata: dict[str, str]) -> Tensor | None:
    """Return the entry at a path, or None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        tensors, stored = read_tensors(path)
        if stored != metadata or "entry" not in tensors:
            raise DamagedFileError(path, "is another entry's")
    except DamagedFileError as error:
        LOG.warning("%s; it is computed anew", error)
        return None
    return tensors["entry"]


@contextmanager
def lock_entry(entry: Path) -> Iterator[None]:
    """Hold the lock of the entry at a path, so that one process at a time computes it.

    Raises:
        RequestError: If there is no entry yet, and the cache cannot be written to.
    """
    try:
        file = entry.with_suffix(".lock").open("w")
    except OSError as error:
        if entry.exists():  # the cache is read-only
            yield
            return
        raise _unusable(error) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
