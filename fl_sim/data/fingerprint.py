"""A hash of the files of a dataset, by which a replaced file is noticed."""

import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

SETTLED = 2.0  # seconds after which a file of the same time stamps counts as the same
_Stamp = tuple[int, int, int, int, int]
_KNOWN: dict[str, tuple[_Stamp, str]] = {}
_LOCK = threading.Lock()


def content_hash(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of files: of their names below `root`, and of what is in them.

    A file is read again where its size, inode or time stamps differ from those at which it was
    read, or where it was changed so shortly before that its time stamps cannot tell.

    Args:
        root: names are taken below this folder, so that a moved dataset keeps its hash.
        files: in any order.

    Raises:
        OSError: for a file that cannot be read.
    """
    sha = hashlib.sha256()
    for name, path in sorted((os.fsencode(path.relative_to(root)), path) for path in files):
        sha.update(b"%d:%s:%s;" % (len(name), name, file_hash(path).encode()))
    return sha.hexdigest()


def files_below(path: Path) -> Iterator[Path]:
    """Yield the files of a dataset: `path` itself, or all regular files below it.

    What is hidden is left out; links to folders are not followed.
    """
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found = [Path(folder) / name for name in names if not name.startswith(".")]
        yield from (own for own in found if own.is_file())


def file_hash(path: Path) -> str:
    """Return the SHA-256 of one file, from memory where it cannot have changed."""
    stamp = _stamp(path.stat())
    with _LOCK:
        known = _KNOWN.get(str(path))
    if known is not None and known[0] == stamp:
        return known[1]
    started = time.time()
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        same = _stamp(os.fstat(file.fileno())) == stamp
    if same and started - max(stamp[3:]) / 1e9 > SETTLED:
        with _LOCK:
            _KNOWN[str(path)] = (stamp, found)
    return found


def _stamp(status: os.stat_result) -> _Stamp:
    size = status.st_size if stat.S_ISREG(status.st_mode) else -1
    return status.st_dev, status.st_ino, size, status.st_mtime_ns, status.st_ctime_ns
