"""Images and labels in an .npz file, read on demand and checked by their headers first."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from fl_sim.data.image_files import check_total, escape
from fl_sim.data.sources import MissingDataError
from fl_sim.data.splits import parse_split

CHANNELS = (1, 3)
MAX_CLASSES = 100_000  # a larger label is an id, or damaged
# Damaged zip members and headers make zipfile and numpy raise any of these.
DAMAGED_ARCHIVE = (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)
DAMAGED = (*DAMAGED_ARCHIVE, ValueError, EOFError, SyntaxError, tokenize.TokenError)


class Header(NamedTuple):
    """Type and shape of an array, read from its header alone."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran: bool


class ArrayPair(NamedTuple):
    """Names of the arrays that hold the images and labels of a split, and the name of the split."""

    images: str
    labels: str
    split: str


class Split(NamedTuple):
    """A split of an .npz file.

    Attributes:
        images: Pixels as [n, c, h, w].
        labels: Integers from 0.
        shape: Shape of the images in the file: [n, h, w], [n, h, w, c] or [n, c, h, w].
        pair: Names of the arrays in the file.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    shape: tuple[int, ...]
    pair: ArrayPair

    def as_stored(self, images: UInt8[Tensor, "n c h w"]) -> NDArray[np.uint8]:
        """Return images in the layout of the file."""
        ordered = images.permute(0, 2, 3, 1) if _is_channels_last(self.shape) else images
        return ordered.reshape(self.shape).contiguous().numpy()


class NpzFile:
    """An .npz file: reads headers at once and splits on demand, and never unpickles.

    A split is a pair of arrays: `<split>_images` and `<split>_labels`, as in MedMNIST's files;
    `x_<split>` and `y_<split>`, as in those of Keras; or `images` and `labels`.

    Attributes:
        path: Path of the file.
        headers: Headers of its arrays, by name.
        pairs: Names of the arrays of each split, in the order of the file.

    Raises:
        MissingDataError: If the file is no .npz file or holds no images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _open_archive(path) as archive:
            self.headers = _read_headers(path, archive)
        self.pairs = _find_pairs(self.headers)
        if not self.pairs:
            names = ", ".join(self.headers) or "nothing"
            raise MissingDataError(f"no images in {escape(path)}: it holds {escape(names)}")

    def by_split(self) -> dict[str, ArrayPair]:
        """Return the pairs by split: `train`, `val`, `test`, or "" for `images` and `labels`.

        Raises:
            MissingDataError: If two pairs are the same split.
        """
        pairs: dict[str, ArrayPair] = {}
        for pair in self.pairs:
            split = parse_split(pair.split)
            if split and split in pairs:
                both = f"{pairs[split].images} and {pair.images}"
                raise MissingDataError(f"unclear: {both} in {escape(self.path)} are the same split")
            if split or not pair.split:
                pairs[split] = pair
        return pairs

    def read(self, pairs: Collection[ArrayPair]) -> list[Split]:
        """Return these splits; no other array is read.

        Raises:
            MissingDataError: If an array holds no images or labels, or is too large.
        """
        for pair in pairs:
            self._check(pair)
        check_total(sum(math.prod(self.headers[pair.images].shape) for pair in pairs), self.path)
        with _open_archive(self.path) as archive:
            return [self._read_split(archive, pair) for pair in pairs]

    def _check(self, pair: ArrayPair) -> None:
        """Refuse an invalid split by its headers, before an array is allocated."""
        images, labels = self.headers[pair.images], self.headers.get(pair.labels)
        if images.dtype != np.uint8 or len(images.shape) not in (3, 4) or 0 in images.shape[1:]:
            self._refuse(pair.images, "uint8 [n h w], [n c h w] or [n h w c]")
        if len(images.shape) == 4:
            first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
            if not first and not last:
                self._refuse(pair.images, "1 or 3 channels")
            if first and last and images.shape[1:] != (1, 1, 1):
                self._refuse(pair.images, "an array whose channels are clear: [n h w] for grey")
        if labels is None:
            missing = f"no {pair.labels} in {escape(self.path)}"
            raise MissingDataError(f"image without a label: {missing}")
        if labels.dtype.hasobject:
            _raise_not_npz(self.path, f"{pair.labels} holds objects, which are never unpickled")
        count = images.shape[0]
        is_whole = np.issubdtype(labels.dtype, np.integer) and labels.shape[:1] == (count,)
        if not is_whole or math.prod(labels.shape[1:]) != 1:
            self._refuse(pair.labels, f"{count} whole numbers from 0, one per image")

    def _read_split(self, archive: zipfile.ZipFile, pair: ArrayPair) -> Split:
        images, labels = (self._read_array(archive, name) for name in (pair.images, pair.labels))
        if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= MAX_CLASSES):
            low, high = int(labels.min()), int(labels.max())
            wanted = f"{len(images)} whole numbers from 0 to {MAX_CLASSES - 1}, one per image"
            self._refuse(pair.labels, f"{wanted} (they go from {low} to {high})")
        pixels = torch.from_numpy(np.ascontiguousarray(images))
        if images.ndim == 3:
            pixels = pixels.unsqueeze(1)
        elif _is_channels_last(images.shape):
            pixels = pixels.permute(0, 3, 1, 2)
        numbers = torch.from_numpy(labels.reshape(-1).astype(np.int64))
        return Split(pixels.contiguous(), numbers, tuple(images.shape), pair)

    def _read_array(self, archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
        try:
            with archive.open(f"{name}.npy") as member:
                return npy.read_array(member, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            _raise_not_npz(self.path, f"{name}: {error}")

    def _refuse(self, name: str, wanted: str) -> NoReturn:
        header = self.headers[name]
        got = f"{header.dtype} of shape {header.shape}"
        raise MissingDataError(f"{escape(self.path)}: expected {name} as {wanted}; got {got}")


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        _raise_not_npz(path, str(error))
    with archive:
        yield archive


def _raise_not_npz(path: Path, cause: str) -> NoReturn:
    raise MissingDataError(f"expected an .npz file; got {escape(path)} ({escape(cause)})") from None


def _read_headers(path: Path, archive: zipfile.ZipFile) -> dict[str, Header]:
    """Return the header of each array, checked against the size that the archive declares."""
    headers: dict[str, Header] = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        name = info.filename.removesuffix(".npy")
        if name in headers:
            _raise_not_npz(path, f"{name} is in it twice")
        try:
            with archive.open(info) as member:
                header = _read_header(member)
        except DAMAGED as error:
            _raise_not_npz(path, f"{name}: {error}")
        declared = math.prod(header.shape) * header.dtype.itemsize
        if not header.dtype.hasobject and declared > info.file_size:
            _raise_not_npz(path, f"{name} declares {declared} bytes and holds {info.file_size}")
        headers[name] = header
    return headers


def _read_header(member: Any) -> Header:
    version = npy.read_magic(member)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(member)
    if any(size < 0 for size in shape):
        raise ValueError(f"a shape of {shape}")
    return Header(dtype, shape, fortran)


def _find_pairs(headers: Collection[str]) -> list[ArrayPair]:
    """Return the pairs of arrays that are named as splits, in upper or lower case."""
    by_lower_case = {name.casefold(): name for name in headers}
    pairs = []
    for name in headers:
        stem, prefix = name[: -len("images")], name[:2].casefold()
        if name.casefold().endswith("images"):
            labels, split = f"{stem}labels", stem.rstrip("_")
        elif prefix == "x_" and parse_split(name[2:]):
            labels, split = f"y_{name[2:]}", name[2:]
        else:
            continue
        pairs.append(ArrayPair(name, by_lower_case.get(labels.casefold(), labels), split))
    return pairs


def _is_channels_last(shape: tuple[int, ...]) -> bool:
    """Return whether a shape is [n, h, w, c] rather than [n, c, h, w] or [n, h, w]."""
    return len(shape) == 4 and shape[3] in CHANNELS and shape[1] not in CHANNELS
