"""One process at a time in a folder of results; whoever comes second learns who is there."""

import errno
import fcntl
import json
import logging
import os
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
PAUSE = 0.2  # seconds between two looks at a folder that is in use


class FolderInUseError(RequestError):
    """Another process is writing into the folder."""


def refuse_link(path: Path) -> None:
    """Raise a `RequestError` where a folder or file of results is a symbolic link.

    Whoever may write into the folder around it could lead what is written, or removed,
    elsewhere.
    """
    if path.is_symlink():
        raise RequestError(
            f"{path} is a symbolic link, and results are never written through one; remove it, or "
            "give another --out"
        )


def refuse_unreadable(path: Path) -> None:
    """Raise a `RequestError` for a path that this machine cannot look at; it may be missing."""
    try:
        _exists(path)
    except OSError as error:
        raise RequestError(f"cannot read {shorten_path(path)}: {error.strerror}") from None


def refuse_unwritable(folder: Path, name: str = "--out") -> None:
    """Refuse a folder in which no file can be made, before any work is done for it.

    Args:
        folder: that results go to; where it is missing, it is looked at where it would be made.
        name: of what was asked for, for the message.

    Raises:
        RequestError: naming the folder and the cause.
    """
    try:
        there = next(own for own in (folder, *folder.absolute().parents) if _exists(own))
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        cause = error.strerror
        raise RequestError(f"{name}: cannot write to {shorten_path(folder)}: {cause}") from None


def _exists(path: Path) -> bool:
    """Return whether a path exists; raise an `OSError` where this machine cannot tell."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a zero byte")
    return path.exists()


def shorten_path(path: Path) -> str:
    """Return a path as it is told of, which may be too long for one line."""
    text = str(path).replace("\0", "\\0")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


@contextmanager
def lock_folder(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder of results, which is made where it is missing.

    The lock is the kernel's: it ends with its process, however that ends, so that what a killed
    process leaves behind never stands in the way.

    Args:
        folder: of an experiment, or of a study.
        wait: wait until it is free, instead of being refused.

    Raises:
        FolderInUseError: where another process holds it, naming that one's id and host.
        RequestError: where the folder cannot be made or written to, or is a link.
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
        about = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(number, 0)
        os.pwrite(number, json.dumps(about).encode(), 0)
        yield
    finally:
        os.close(number)


def _acquire(number: int, folder: Path, wait: bool) -> None:
    """Lock an open file, or say who has."""
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
    """Return in words who holds a lock; whoever has just taken it may not have signed yet."""
    for _ in range(10):
        try:
            about = json.loads(os.pread(number, 1000, 0))
            return f"process {int(about['pid'])} on {about['host']}"
        except (ValueError, KeyError, TypeError):
            time.sleep(0.02)
    return "another process"
