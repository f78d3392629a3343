"""A hash of the files of a dataset, by which a replaced file is noticed."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from fl_sim.core.atomic_io import hash_file


def hash_files(root: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of files: of their names below `root`, and of what is in them.

    Args:
        root: names are taken below this folder, so that a moved dataset keeps its hash.
        files: in any order.

    Raises:
        OSError: for a file that cannot be read.
    """
    sha = hashlib.sha256()
    for name, path in sorted((os.fsencode(path.relative_to(root)), path) for path in files):
        sha.update(b"%d:%s:%s;" % (len(name), name, hash_file(path).encode()))
    return sha.hexdigest()


def list_files(path: Path) -> Iterator[Path]:
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
