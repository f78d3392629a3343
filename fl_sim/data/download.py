"""Files of published datasets: fetched from their publisher, and checked by published checksums."""

import hashlib
import http.client
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fl_sim.core.atomic_io import write_atomically
from fl_sim.data.sources import MissingDataError

BLOCK = 1 << 20  # bytes
TIMEOUT = 30  # seconds without an answer
Listen = Callable[[int, int], None]  # of the bytes that are here, and of all, or 0 if unknown


class PublishedFile(NamedTuple):
    """A file of a publisher.

    Attributes:
        url: Its address.
        name: Its name in the folder of the dataset.
        algorithm: The hash that the publisher gives: `md5` or `sha256`.
        checksum: That hash of its content, in hexadecimal digits.
    """

    url: str
    name: str
    algorithm: str
    checksum: str


def find_file(file: PublishedFile, name: str, path: Path | None, folder: Path) -> Path:
    """Return the place of a file of the dataset `name`, after a check of its content.

    Args:
        file: The file.
        name: Name of the dataset.
        path: The file or its folder, as the user gave it; None for `folder`.
        folder: Folder of the dataset in the cache.

    Raises:
        MissingDataError: If it is missing or another; the message says how to get it.
    """
    place = path if path is not None and path.is_file() else (path or folder) / file.name
    if not place.exists():
        raise MissingDataError(
            f"data.dataset: {name} was not found: run `fl-sim data fetch {name}`, or put "
            f"{file.url} at {place}"
        )
    check_content(place, file)
    return place


def check_content(path: Path, file: PublishedFile) -> None:
    """Raise a `MissingDataError` unless a path holds the published content."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, file.algorithm).hexdigest()
    except OSError as error:
        raise MissingDataError(f"{path} cannot be read: {error.strerror}") from None
    if found != file.checksum:
        raise MissingDataError(
            f"{path} is not the published file: its {file.algorithm} is {found}, not "
            f"{file.checksum}"
        )


def download(file: PublishedFile, path: Path, listen: Listen) -> None:
    """Fetch a file to `path`, whole and checked, or not at all; keep one that is there already.

    Raises:
        MissingDataError: If it cannot be fetched; the message says where to put it by hand.
    """
    if path.exists():
        check_content(path, file)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with write_atomically(path) as partial:
            _copy(file.url, partial, listen)
            check_content(partial, file)
    except (OSError, ValueError, http.client.HTTPException, MissingDataError) as error:
        raise MissingDataError(
            f"{file.url} was not fetched ({error}); fetch it where there is a network, put it at "
            f"{path}, and run this again"
        ) from None


def _copy(url: str, path: Path, listen: Listen) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "fl-sim"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, path.open("wb") as target:
        size, done = int(answer.headers.get("Content-Length") or 0), 0
        while block := answer.read(BLOCK):
            done += target.write(block)
            listen(done, size)
    if done < size:
        raise OSError(f"the connection ended after {done} of {size} bytes")
