"""Files that are there whole or not at all, and are checked when they are read.

Everything that outlives a process goes through here: results, the cache, checkpoints, what
studies and audits keep. A file is written beside its place and moved there; what took long to
make is flushed to the disk before. JSON can carry a SHA-256 of its own content, and tensors
(`fl_sim.core.tensor_files`) always do; what no longer fits its hash is a `DamagedFileError`, one
line that names the file.
"""

import errno
import hashlib
import io
import json
import math
import os
import secrets
import stat
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fl_sim.core.errors import RequestError

SEAL = "sha256"  # the field of a JSON object that holds the hash of all others
SETTLED = 2.0  # seconds after which a change of a file shows in its time stamps
_Stamp = tuple[int, int, int, int, int]
_HASHES: dict[str, tuple[_Stamp, str]] = {}  # hashes of files, by path


class DamagedFileError(RequestError):
    """A file is cut, empty, missing, or was changed since it was written.

    Attributes:
        path: of the file.
        cause: what is wrong with it, in a few words.
    """

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path, self.cause = path, cause

    def __reduce__(self) -> tuple[type["DamagedFileError"], tuple[Path, str]]:
        """Return how to make it again, in another process."""
        return type(self), (self.path, self.cause)


@contextmanager
def write_atomically(path: Path, *, durable: bool = False, private: bool = False) -> Iterator[Path]:
    """Yield a place to write to, and move it to `path` afterwards, so that a file is there whole.

    A link at `path` is replaced, never written through.

    Args:
        path: of the file; its folder must exist.
        durable: also wait until it is on the disk, so that it survives a loss of power.
        private: only its owner may read it (mode 600).

    Raises:
        OSError: where it cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        if private:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield partial
        if durable:
            flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # still there where the disk is full


def write_bytes(path: Path, content: bytes, *, durable: bool = False, private: bool = False) -> str:
    """Write a file as `replacing` does, and return its SHA-256."""
    with write_atomically(path, durable=durable, private=private) as partial:
        partial.write_bytes(content)
    return hash_bytes(content)


def flush(path: Path) -> None:
    """Wait until a file is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(path: Path, text: str) -> str:
    """Write a text file atomically, and return its SHA-256."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any, *, durable: bool = False) -> str:
    """Write JSON atomically, and return its SHA-256; NaN and infinity become null."""
    text = json.dumps(_replace_non_finite(value), indent=2, allow_nan=False) + "\n"
    return write_bytes(path, text.encode(), durable=durable)


def write_sealed(path: Path, value: Mapping[str, Any]) -> str:
    """Write a JSON object with the hash of its own content, and return that hash."""
    content = _replace_non_finite({key: own for key, own in value.items() if key != SEAL})
    seal = _hash_json(content)
    write_json(path, {**content, SEAL: seal}, durable=True)
    return seal


def write_table(path: Path, table: pd.DataFrame) -> str:
    """Write a parquet file atomically, and return its SHA-256."""
    return write_bytes(path, table.to_parquet(index=False), durable=True)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, compressed: bool) -> str:
    """Write an .npz file atomically, and return its SHA-256."""
    content = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(content, allow_pickle=False, **arrays)
    return write_bytes(path, content.getvalue())


def read_bytes(path: Path, sha256: str | None = None) -> bytes:
    """Return what a file holds.

    Raises:
        DamagedFileError: where it is missing, cannot be read, or has another hash.
    """
    try:
        _refuse_special(path)
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedFileError(path, "is missing") from None
    except OSError as error:
        raise DamagedFileError(path, f"cannot be read: {error.strerror}") from None
    if sha256 is not None and hash_bytes(content) != sha256:
        raise DamagedFileError(path, describe_change(content))
    return content


def read_json(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """Return the JSON object that a file holds; one that carries its own hash is checked.

    Raises:
        DamagedFileError: for anything else.
    """
    content = read_bytes(path, sha256)
    value = _parse(path, content)
    if not isinstance(value, dict):
        raise DamagedFileError(path, f"holds a {type(value).__name__}, not a JSON object")
    seal = value.get(SEAL)
    if seal is not None and seal != _hash_json({k: own for k, own in value.items() if k != SEAL}):
        raise DamagedFileError(path, describe_change(content))
    return value


def read_table(
    path: Path, sha256: str | None = None, columns: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Return the table that a parquet file holds.

    Raises:
        DamagedFileError: for anything else, and where one of `columns` is missing.
    """
    content = read_bytes(path, sha256)
    try:
        table = pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # pyarrow raises errors of many kinds
        raise DamagedFileError(path, f"is no parquet file: {_first_line(error)}") from None
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise DamagedFileError(path, f"has no column {missing[0]}")
    return table


def read_arrays(path: Path, sha256: str | None = None) -> dict[str, NDArray[Any]]:
    """Return the arrays that an .npz file holds; nothing is unpickled.

    Raises:
        DamagedFileError: for anything else.
    """
    content = read_bytes(path, sha256)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DamagedFileError(path, f"is no .npz file: {_first_line(error)}") from None


def check_file(path: Path, sha256: str) -> None:
    """Check that a file is as it was written.

    Raises:
        DamagedFileError: where it is missing, or has another hash.
    """
    try:
        found = hash_file(path)
    except FileNotFoundError:
        raise DamagedFileError(path, "is missing") from None
    except OSError as error:
        raise DamagedFileError(path, f"cannot be read: {error.strerror}") from None
    if found != sha256:
        raise DamagedFileError(path, describe_change(path.read_bytes()[:1]))


def check_files(folder: Path, hashes: Any, usual: tuple[str, ...]) -> None:
    """Check that files are as they were written.

    Args:
        folder: that holds them.
        hashes: SHA-256 by name; None: unknown, so that they are only looked at.
        usual: names of those that are looked at then, where they are there.

    Raises:
        DamagedFileError: for the first that is not.
    """
    if isinstance(hashes, dict):
        for name, sha256 in hashes.items():
            check_file(folder / Path(name).name, str(sha256))
        return
    for name in usual:
        if (folder / name).exists():
            check_readable(folder / name)


def check_readable(path: Path) -> None:
    """Check that a file can be read, for one whose hash is not known.

    Raises:
        DamagedFileError: where it cannot.
    """
    match path.suffix:
        case ".json":
            _parse(path, read_bytes(path))
        case ".parquet":
            read_table(path)
        case ".npz":
            read_arrays(path)
        case ".safetensors":
            _check_tensors(path)


def _check_tensors(path: Path) -> None:
    if not path.stat().st_size:
        raise DamagedFileError(path, "is empty")
    try:
        with safe_open(path, "numpy") as file:
            list(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFileError(path, f"is torn: {_first_line(error)}") from None


def hash_bytes(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, from memory where it cannot have changed.

    A file is read again where its size, inode or time stamps differ from those at which it was
    read, or where it was changed so shortly before that its time stamps cannot tell.
    """
    stamp = _stamp(_refuse_special(path))
    known = _HASHES.get(str(path))
    if known is not None and known[0] == stamp:
        return known[1]
    started = time.time()
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        is_same = _stamp(os.fstat(file.fileno())) == stamp
    if is_same and started - max(stamp[3:]) / 1e9 > SETTLED:
        _HASHES[str(path)] = (stamp, sha256)
    return sha256


def _stamp(status: os.stat_result) -> _Stamp:
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *times)


def _refuse_special(path: Path) -> os.stat_result:
    """Return the status of a file; refuse what would never end, such as a pipe."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    return about


def describe_change(content: bytes) -> str:
    """Return in words what is wrong with content that does not fit its hash."""
    return "was changed since it was written" if content else "is empty"


def _parse(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        cause = _first_line(error) if content else ""
        raise DamagedFileError(path, f"is no JSON: {cause}" if cause else "is empty") from None


def _hash_json(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hash_bytes(text.encode())


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
