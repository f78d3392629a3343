"""Locks on folders of results, and checks that a path can be read and written."""

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_sim.core.errors import RequestError

LOG = logging.getLogger("fl_sim")
LOCK = ".lock"
LONGEST = 300  # characters of a path in a message
PAUSE = 0.2  # seconds between two attempts to lock a folder that is in use


class FolderInUseError(RequestError):
    """Another process is writing into the folder."""


def refuse_link(path: Path) -> None:
    """Raise a `RequestError` if a folder or file of results is a symbolic link.

    A link could direct writes and removals to files outside the folder of results.
    """
    if path.is_symlink():
        raise RequestError(
            f"{path} is a symbolic link, and results are never written through one; remove it, or "
            "give another --out"
        )


def remove_folder(folder: Path) -> None:
    """Remove a folder of results that are to be made again, if there is one.

    Raises:
        RequestError: If it cannot be removed: what stays would count as the new results.
    """
    try:
        shutil.rmtree(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise RequestError(f"cannot remove {folder}: {error.strerror}") from None


def refuse_unreadable(path: Path) -> None:
    """Raise a `RequestError` for a path that cannot be accessed; a missing path is accepted."""
    try:
        _exists(path)
    except OSError as error:
        raise RequestError(f"cannot read {shorten_path(path)}: {error.strerror}") from None


def refuse_unwritable(folder: Path, name: str = "--out") -> None:
    """Refuse a folder in which no file can be created.

    Args:
        folder: Folder for results. If it is missing, its closest existing parent is checked.
        name: Name of the option that gave the folder, for the message.

    Raises:
        RequestError: Naming the folder and the cause.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if _exists(path))
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        cause = error.strerror
        raise RequestError(f"{name}: cannot write to {shorten_path(folder)}: {cause}") from None


def _exists(path: Path) -> bool:
    """Return whether a path exists; raise an `OSError` if that cannot be determined."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a zero byte")
    return path.exists()


def shorten_path(path: Path) -> str:
    """Return a path for a message, cut after `LONGEST` characters."""
    text = str(path).replace("\0", "\\0")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@contextmanager
def lock_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder of results while the block runs; make the folder if it is missing.

    The kernel releases the lock when its process ends, however it ends, so a killed process never
    leaves a stale lock.

    Args:
        folder: Folder of an experiment or a study.
        wait: Wait until the folder is free instead of raising.

    Raises:
        FolderInUseError: If another process holds the lock, naming its id and host.
        RequestError: If the folder cannot be made or written to, or is a link.
    """
    refuse_unwritable(folder)
    refuse_link(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        number = os.open(folder / LOCK, flags, 0o644)
    except OSError as error:
        raise RequestError(f"--out: cannot write to {folder}: {error.strerror}") from None
    try:
        _acquire(number, folder, wait)
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(number, 0)
        os.pwrite(number, json.dumps(owner).encode(), 0)
        yield
    finally:
        os.close(number)


def _acquire(number: int, folder: Path, wait: bool) -> None:
    """Lock an open file, or raise a `FolderInUseError` that names its holder."""
    is_announced = False
    while True:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                LOG.warning("%s cannot be locked: %s", folder, error.strerror)
                return
        holder = _describe_holder(number)
        if not wait:
            raise FolderInUseError(
                f"{folder} is in use by {holder}; wait for it with --wait, or give another --out"
            )
        if not is_announced:
            LOG.warning("waiting for %s, which is in use by %s", folder, holder)
            is_announced = True
        time.sleep(PAUSE)


def _describe_holder(number: int) -> str:
    """Describe the holder of a lock, which may not have written its id yet."""
    for _ in range(10):
        try:
            owner = json.loads(os.pread(number, 1000, 0))
            return f"process {int(owner['pid'])} on {owner['host']}"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.02)
    return "another process"
