"""Decodes image files to pixels, or refuses them with the name of the file."""

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from fl_sim.data.scaling import resize
from fl_sim.data.sources import MissingDataError

PHOTO_SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp")
SUFFIXES = (*PHOTO_SUFFIXES, ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # no others are tried
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")  # 8 bits or fewer, grey or RGB
DEEP = re.compile(r";(12|14|16|24|32|64)")  # of Pillow's raw modes for PNG and TIFF
MAX_BYTES = 2**32  # all decoded pixels together: 4 GiB


class MixedSizesError(MissingDataError):
    """Images differ in size, and no size to scale them to was given."""


class DecodedImage(NamedTuple):
    """A decoded image, turned upright: pixels, alpha channel and colour profile."""

    pixels: UInt8[Tensor, "c h w"]
    alpha: UInt8[Tensor, "h w"] | None
    profile: bytes | None


class Batch(NamedTuple):
    """Images of one size.

    Attributes:
        pixels: Pixels of all images.
        notes: Notes for the user.
        hashes: SHA-256 of each file.
    """

    pixels: UInt8[Tensor, "n c h w"]
    notes: tuple[str, ...]
    hashes: tuple[bytes, ...]


def escape(name: str | Path) -> str:
    """Return a name on one line, with escapes for characters that cannot be printed."""
    codec = "unicode_escape", "surrogatepass"
    return "".join(c if c.isprintable() else c.encode(*codec).decode() for c in str(name))


def count_decoded_bytes(file: Path | bytes, name: str) -> int:
    """Return the size of a decoded image in bytes; only its header is read.

    Args:
        file: Path of the image file, or its content.
        name: Its name in messages.

    Raises:
        MissingDataError: If the file cannot be used.
    """
    with _open_checked(file if isinstance(file, Path) else io.BytesIO(file), name) as image:
        width, height = image.size
        return width * height * (1 if image.mode in ("1", "L", "LA") else 3)


def check_total(total: int, where: str | Path) -> None:
    """Refuse more than 4 GiB of pixels, before any of them is decoded."""
    if total > MAX_BYTES:
        raise MissingDataError(
            f"the images of {escape(where)} take {total >> 20} MiB once they are decoded; at most "
            f"{MAX_BYTES >> 20} MiB are read: take fewer or smaller ones"
        )


def decode(content: bytes, name: str) -> DecodedImage:
    """Return the pixels of an image file: grey or colour, 8 bits per channel.

    The image is turned upright by its EXIF data. Fewer bits and palettes become 8 bits without
    loss; values are not converted to another colour space.

    Raises:
        MissingDataError: If the file is corrupt, or 8 bits of grey or RGB cannot hold it: more
            bits, several frames, another colour model, too many pixels.
    """
    with _open_checked(io.BytesIO(content), name) as opened:
        try:
            if opened.format == "PNG":  # Pillow loads a PNG without checking its checksums
                Image.open(io.BytesIO(content), formats=FORMATS).verify()
            opened.load()
            profile = opened.info.get("icc_profile")
            image = ImageOps.exif_transpose(opened)
            return _to_tensors(image, profile)
        except Exception as error:  # a damaged file makes decoders raise nearly anything
            cause = _describe_cause(error)
            raise MissingDataError(f"corrupt image {escape(name)}: {cause}") from None


def _open_checked(file: Path | io.BytesIO, name: str) -> Image.Image:
    """Return an image with its header read and checked; no pixel is decoded yet."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
            frames = getattr(image, "n_frames", 1)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        cause = _describe_cause(error)
        raise MissingDataError(f"image {escape(name)} is too large: {cause}") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise MissingDataError(f"corrupt image {escape(name)}: {_describe_cause(error)}") from None
    problem = _find_problem(image, frames)
    if problem:
        image.close()
        raise MissingDataError(f"image {escape(name)} {problem}")
    return image


def _find_problem(image: Image.Image, frames: int) -> str:
    """Return the reason why 8 bits of grey or RGB cannot hold an image, or an empty string."""
    if frames > 1:
        return f"has {frames} frames: save the one that is meant"
    if image.mode.startswith(("I", "F")) or _is_deep(image):
        return "has more than 8 bits a channel: convert it first"
    if image.mode not in MODES:
        return f"has the colour model {image.mode}: convert it to RGB or grey first"
    if 0 in image.size:
        return "has no pixels"
    return ""


def _is_deep(image: Image.Image) -> bool:
    """Return whether Pillow would cut bits off, which it does silently."""
    if image.format not in ("PNG", "TIFF", "PPM"):
        return False
    for tile in getattr(image, "tile", ()):
        mode = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if image.format == "PPM":
            if len(mode) > 1 and isinstance(mode[1], int) and mode[1] > 255:
                return True
        elif DEEP.search(str(mode[0])):
            return True
    return False


def _to_tensors(image: Image.Image, profile: bytes | None) -> DecodedImage:
    is_grey = image.mode in ("1", "L", "LA")
    alpha = None
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        image = image.convert("LA" if is_grey else "RGBA")
        alpha = torch.from_numpy(np.array(image.getchannel("A")))
    pixels = torch.from_numpy(np.array(image.convert("L" if is_grey else "RGB")))
    planes = pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()
    return DecodedImage(planes, alpha, profile)


def _describe_cause(error: BaseException) -> str:
    return escape((str(error) or type(error).__name__).splitlines()[0])


def stack_images(
    pictures: Sequence[DecodedImage], names: Sequence[str]
) -> UInt8[Tensor, "n c h w"]:
    """Return images of one size as a batch, in colour if any of them is.

    Raises:
        MixedSizesError: If sizes differ.
    """
    size = pictures[0].pixels.shape[1:]
    for name, picture in zip(names, pictures, strict=True):
        if picture.pixels.shape[1:] != size:
            first, other = tuple(size), tuple(picture.pixels.shape[1:])
            sizes = f"{escape(names[0])} has {first}, {escape(name)} has {other}"
            raise MixedSizesError(f"images of one size are needed: {sizes}")
    channels = max(picture.pixels.shape[0] for picture in pictures)
    return torch.stack([picture.pixels.expand(channels, -1, -1) for picture in pictures])


def read_batch(
    files: Sequence[Path | bytes], names: Sequence[str], where: Path, side: int | None = None
) -> Batch:
    """Return the pixels of image files, all of one size or scaled to `side`.

    Grey images become colour ones if any image is in colour. Values are taken as stored: as in
    torchvision, colour profiles are not applied; a note names the images that have another one
    than sRGB.

    Args:
        files: Paths of the files, or their contents.
        names: Their names in messages.
        where: Place of all of them, for messages.
        side: Side that images are scaled to, in pixels.

    Raises:
        MissingDataError: If a file cannot be used, such as a transparent image, whose background
            is unknown; the message names it.
    """
    sizes = [count_decoded_bytes(file, name) for file, name in zip(files, names, strict=True)]
    scaled_bytes = len(files) * 3 * (side or 0) ** 2
    check_total(scaled_bytes or sum(sizes), where)
    pictures, hashes = [], []
    for file, name in zip(files, names, strict=True):
        content = file.read_bytes() if isinstance(file, Path) else file
        hashes.append(hashlib.sha256(content).digest())
        pictures.append(_decode_opaque(content, name, side))
    return Batch(stack_images(pictures, names), _write_notes(pictures, names), tuple(hashes))


def _decode_opaque(content: bytes, name: str, side: int | None) -> DecodedImage:
    picture = decode(content, name)
    if picture.alpha is not None and int(picture.alpha.min()) < 255:
        raise MissingDataError(f"image {escape(name)} is transparent in places: flatten it first")
    return picture._replace(pixels=resize(picture.pixels[None], side)[0], alpha=None)


def _write_notes(pictures: Sequence[DecodedImage], names: Sequence[str]) -> tuple[str, ...]:
    pairs = list(zip(pictures, names, strict=True))
    grey = [name for picture, name in pairs if picture.pixels.shape[0] == 1]
    other = [name for picture, name in pairs if picture.profile and not is_srgb(picture.profile)]
    notes = []
    if 0 < len(grey) < len(pictures):
        notes.append(f"{summarise(grey, 'grey image')} became colour")
    if other:
        notes.append(f"numbers as stored in {summarise(other, 'image')} whose profile is not sRGB")
    return tuple(notes)


def summarise(names: Sequence[str], noun: str) -> str:
    """Return the number of names and the first of them: `3 grey images (a/1.png, ...)`.

    >>> summarise(["a/1.png"], "grey image")
    '1 grey image (a/1.png)'
    """
    more = ", ..." if len(names) > 1 else ""
    return f"{len(names)} {noun}{'s' * (len(names) > 1)} ({escape(names[0])}{more})"


@lru_cache(maxsize=64)
def is_srgb(profile: bytes) -> bool:
    """Return whether a colour profile is described as sRGB."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return "srgb" in ImageCms.getProfileDescription(opened).lower()
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return False
