"""Hashes of the files of a dataset, by which a replaced file is detected."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fl_sim.core.atomic_io import hash_file


def hash_files(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of the names and contents of files.

    Args:
        root: Folder that names are relative to, so that a moved dataset keeps its hash.
        files: Files below it, in any order.

    Raises:
        OSError: If a file cannot be read.
    """
    sha = hashlib.sha256()
    for name, path in sorted((os.fsencode(path.relative_to(root)), path) for path in files):
        sha.update(b"%d:%s:%s;" % (len(name), name, hash_file(path).encode()))
    return sha.hexdigest()


def list_files(path: Path) -> Iterator[Path]:
    """Yield the files of a dataset: `path` itself, or all regular files below it.

    Hidden files and folders are left out; links to folders are not followed.
    """
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = (Path(folder) / name for name in names if not name.startswith("."))
        yield from (file for file in files if file.is_file())
