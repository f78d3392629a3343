"""Atomic writes, and reads that check a SHA-256.

Everything that outlives a process goes through this module: results, the cache, checkpoints, and
the outputs of studies and audits. A file is written under a temporary name and moved into place;
content that took long to compute is flushed to the disk first. JSON can carry a SHA-256 of its own
content, and tensors (`fl_sim.core.tensor_files`) always do; a mismatch is a `DamagedFileError`,
one line that names the file.
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

SEAL = "sha256"  # the field of a JSON object that holds the hash of all other fields
SETTLED = 2.0  # seconds after which a change of a file is sure to show in its time stamps
_Stamp = tuple[int, int, int, int, int]
_HASHES: dict[str, tuple[_Stamp, str]] = {}  # hashes of files, by path


class DamagedFileError(RequestError):
    """A file is truncated, empty, missing, or was changed since it was written.

    Attributes:
        path: Path of the file.
        cause: What is wrong with it, in a few words.
    """

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"{path}: {cause}")
        self.path, self.cause = path, cause

    def __reduce__(self) -> tuple[type["DamagedFileError"], tuple[Path, str]]:
        """Return the arguments that rebuild the error in another process."""
        return type(self), (self.path, self.cause)


@contextmanager
def write_atomically(path: Path, *, durable: bool = False, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, and move it to `path` afterwards.

    A link at `path` is replaced, never written through.

    Args:
        path: Path of the file; its folder must exist.
        durable: Wait until the file is on the disk, so that it survives a loss of power.
        private: Let only the owner read the file (mode 600).

    Raises:
        OSError: If the file cannot be written; an earlier file at `path` stays as it is.
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
        partial.unlink(missing_ok=True)  # still there if the disk is full


def write_bytes(path: Path, content: bytes, *, durable: bool = False, private: bool = False) -> str:
    """Write a file atomically, and return its SHA-256."""
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
    content = _replace_non_finite({key: item for key, item in value.items() if key != SEAL})
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
    """Return the content of a file.

    Raises:
        DamagedFileError: If it is missing, cannot be read, or has another hash.
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
    """Return the JSON object in a file, checked against its own hash if it carries one.

    Raises:
        DamagedFileError: If the file is damaged, or holds anything but a JSON object.
    """
    content = read_bytes(path, sha256)
    value = _parse(path, content)
    if not isinstance(value, dict):
        raise DamagedFileError(path, f"holds a {type(value).__name__}, not a JSON object")
    seal = value.get(SEAL)
    if seal is not None and seal != _hash_json({k: v for k, v in value.items() if k != SEAL}):
        raise DamagedFileError(path, describe_change(content))
    return value


def read_table(
    path: Path, sha256: str | None = None, columns: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Return the table in a parquet file.

    Raises:
        DamagedFileError: If the file is damaged, or lacks one of `columns`.
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
    """Return the arrays in an .npz file; nothing is unpickled.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    content = read_bytes(path, sha256)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise DamagedFileError(path, f"is no .npz file: {_first_line(error)}") from None


def check_file(path: Path, sha256: str) -> None:
    """Check that a file has the given hash.

    Raises:
        DamagedFileError: If it is missing, or has another hash.
    """
    try:
        found_sha256 = hash_file(path)
    except FileNotFoundError:
        raise DamagedFileError(path, "is missing") from None
    except OSError as error:
        raise DamagedFileError(path, f"cannot be read: {error.strerror}") from None
    if found_sha256 != sha256:
        raise DamagedFileError(path, describe_change(path.read_bytes()[:1]))


def check_files(folder: Path, hashes: Any, usual: tuple[str, ...]) -> None:
    """Check the files of a folder against their hashes.

    Args:
        folder: Folder of the files.
        hashes: SHA-256 by file name. If there are none, files are only checked to be readable.
        usual: Names of the files that are checked then, if they exist.

    Raises:
        DamagedFileError: For the first file that fails.
    """
    if isinstance(hashes, dict):
        for name, sha256 in hashes.items():
            check_file(folder / Path(name).name, str(sha256))
        return
    for name in usual:
        if (folder / name).exists():
            check_readable(folder / name)


def check_readable(path: Path) -> None:
    """Check that a file without a known hash can be read.

    Raises:
        DamagedFileError: If it cannot.
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
    """Return the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, from memory if the file cannot have changed.

    A file is read again if its size, inode or time stamps differ from those of the last read, or
    if it was changed so shortly before that read that its time stamps would not show a new change.
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
    """Return the status of a file; refuse pipes and devices, whose content may never end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    return status


def describe_change(content: bytes) -> str:
    """Describe content that does not match its hash."""
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
