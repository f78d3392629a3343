"""Images of a user's own: class folders, a CSV of labels, or arrays in an .npz file."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fl_sim.data.sources import MissingDataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
CHANNELS = (1, 3)


class Labelled(NamedTuple):
    """An image file and what it shows.

    Attributes:
        name: path below the folder, with forward slashes.
        path: where it is.
        label: name of its class.
    """

    name: str
    path: Path
    label: str


class Picture(NamedTuple):
    """A decoded image, upright: pixels, and what has to be put back beside them."""

    pixels: UInt8[Tensor, "c h w"]
    alpha: UInt8[Tensor, "h w"] | None
    profile: bytes | None


def labelled_files(folder: Path, labels: Path | None = None) -> list[Labelled]:
    """Return the images of a folder by name, labelled by their class folders or by a CSV file.

    Args:
        folder: holds one folder a class; or the files that the CSV names.
        labels: CSV file with the columns `file` and `label`.

    Raises:
        MissingDataError: for a label without images, an image without a label, or no images.
    """
    if not folder.is_dir():
        raise MissingDataError(f"there is no folder {folder}")
    found = _by_class_folder(folder) if labels is None else _by_csv(folder, labels)
    if not found:
        raise MissingDataError(f"no images in {folder}: expected one folder a class")
    return sorted(found)


def _by_class_folder(folder: Path) -> list[Labelled]:
    found = []
    for stray in _images_in(path for path in folder.iterdir() if path.is_file()):
        raise MissingDataError(
            f"image without a label: {stray.name} lies beside the class folders of {folder}; "
            f"move it into one, or give a CSV of labels"
        )
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for own in classes:
        images = _images_in(path for path in own.rglob("*") if path.is_file())
        if not images:
            raise MissingDataError(f"label without images: the folder {own} holds none")
        found += [Labelled(p.relative_to(folder).as_posix(), p, own.name) for p in images]
    return found


def _images_in(paths: Iterable[Path]) -> list[Path]:
    return sorted(
        path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _by_csv(folder: Path, labels: Path) -> list[Labelled]:
    try:
        with labels.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MissingDataError(f"the labels {labels} cannot be read: {error}") from None
    found: dict[str, Labelled] = {}
    for line, row in enumerate(rows, start=2):
        name, label = row.get("file"), row.get("label")
        if not name or not label:
            raise MissingDataError(f"{labels}, line {line}: expected the columns file and label")
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise MissingDataError(f"{labels}, line {line}: {name} is not below {folder}")
        if not path.is_file():
            raise MissingDataError(f"label without image: {labels}, line {line}: no file {path}")
        clean = path.relative_to(folder).as_posix()
        if clean in found:
            raise MissingDataError(f"{labels}, line {line}: {name} has a label already")
        found[clean] = Labelled(clean, path, label)
    return list(found.values())


def decode(content: bytes, name: str) -> Picture:
    """Return the pixels of an image file: grey or colour, 8 bits a channel.

    Raises:
        MissingDataError: for a corrupt image, or one with more than 8 bits.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            profile = opened.info.get("icc_profile")
            image = ImageOps.exif_transpose(opened)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise MissingDataError(f"corrupt image {name}: {error}") from None
    except Image.DecompressionBombError as error:
        raise MissingDataError(f"image {name} is too large: {error}") from None
    if image.mode.startswith(("I", "F")):
        raise MissingDataError(f"image {name} has more than 8 bits a channel: convert it first")
    alpha = None
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        image = image.convert("LA" if image.mode == "LA" else "RGBA")
        alpha = torch.from_numpy(np.array(image.getchannel("A")))
    kept = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    pixels = torch.from_numpy(np.array(kept))
    planes = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
    return Picture(planes, alpha, profile)


class Split(NamedTuple):
    """A part of an .npz file: pixels as [n c h w], and how they were laid out in the file.

    Attributes:
        images: pixels.
        labels: whole numbers from 0.
        shape: of the array in the file: [n h w], [n h w c] or [n c h w].
        prefix: of its names in the file, such as `train_`.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    shape: tuple[int, ...]
    prefix: str

    def as_stored(self, images: UInt8[Tensor, "n c h w"]) -> NDArray[np.uint8]:
        """Return images in the layout of the file."""
        ordered = images.permute(0, 2, 3, 1) if _is_channels_last(self.shape) else images
        return ordered.reshape(self.shape).contiguous().numpy()


def read_npz(path: Path) -> tuple[dict[str, NDArray[np.generic]], list[Split]]:
    """Return the arrays of an .npz file, and its splits, in MedMNIST's layout or a plain one.

    A split is a pair of arrays `<split>_images` and `<split>_labels`, or `images` and `labels`.
    Nothing is unpickled.

    Raises:
        MissingDataError: for what is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError, BadZipFile, EOFError, AttributeError) as error:
        raise MissingDataError(f"expected an .npz file; got {path} ({error})") from None
    prefixes = [name.removesuffix("images") for name in arrays if name.endswith("images")]
    if not prefixes:
        raise MissingDataError(f"no images in {path}: it holds {', '.join(arrays) or 'nothing'}")
    return arrays, [_split(path, arrays, prefix) for prefix in prefixes]


def _split(path: Path, arrays: dict[str, NDArray[np.generic]], prefix: str) -> Split:
    images, labels = arrays[f"{prefix}images"], arrays.get(f"{prefix}labels")
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape[1:]:
        _refuse(path, f"{prefix}images", "uint8 [n h w], [n c h w] or [n h w c]", images)
    if labels is None:
        raise MissingDataError(f"image without a label: no {prefix}labels in {path}")
    whole = np.issubdtype(labels.dtype, np.integer) and labels.size == len(images)
    if not whole or len(labels) != len(images) or (labels.size and labels.min() < 0):
        wanted = f"{len(images)} whole numbers from 0, one an image"
        _refuse(path, f"{prefix}labels", wanted, labels)
    pixels = torch.from_numpy(images)
    if images.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif _is_channels_last(images.shape):
        pixels = pixels.permute(0, 3, 1, 2)
    elif images.shape[1] not in CHANNELS:
        _refuse(path, f"{prefix}images", "1 or 3 channels", images)
    numbers = torch.from_numpy(labels.reshape(-1).astype(np.int64))
    return Split(pixels.contiguous(), numbers, tuple(images.shape), prefix)


def _is_channels_last(shape: tuple[int, ...]) -> bool:
    """Return whether an array is [n h w c]; [n c h w] where it could be either."""
    return len(shape) == 4 and shape[3] in CHANNELS and shape[1] not in CHANNELS


def _refuse(path: Path, name: str, wanted: str, got: NDArray[np.generic]) -> NoReturn:
    found = f"{got.dtype} of shape {got.shape}"
    raise MissingDataError(f"{path}: expected {name} as {wanted}; got {found}")


def stacked(pictures: list[Picture], names: list[str]) -> UInt8[Tensor, "n c h w"]:
    """Return pictures of one size as a batch, in colour if any of them is.

    Raises:
        MissingDataError: where sizes differ.
    """
    size = pictures[0].pixels.shape[1:]
    for name, picture in zip(names, pictures, strict=True):
        if picture.pixels.shape[1:] != size:
            found = f"{names[0]} has {tuple(size)}, {name} has {tuple(picture.pixels.shape[1:])}"
            raise MissingDataError(f"images of one size are needed: {found}")
    channels = max(picture.pixels.shape[0] for picture in pictures)
    return torch.stack([picture.pixels.expand(channels, -1, -1) for picture in pictures])
