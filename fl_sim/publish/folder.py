"""Protects a folder of images: writes lossless files of the same names, and a manifest."""

import csv
import io
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from fl_sim.core.atomic_io import hash_bytes, hash_file
from fl_sim.core.errors import RequestError, RunFailedError
from fl_sim.data.folder_contents import LabelledImage
from fl_sim.data.folders import read_folder
from fl_sim.data.image_files import (
    DecodedImage,
    MixedSizesError,
    check_total,
    count_decoded_bytes,
    decode,
    escape,
    stack_images,
)
from fl_sim.data.scaling import resize
from fl_sim.data.splits import parse_split
from fl_sim.metrics.quality import psnr, ssim
from fl_sim.publish import manifest, noise
from fl_sim.publish.manifest import ImageEntry
from fl_sim.publish.noise import Progress
from fl_sim.publish.request import MANIFEST, Request, check_fits, prepare_out, write_file

LABELS = "labels.csv"


@dataclass(frozen=True, eq=False)
class Scan:
    """The whole input, read and decoded once before anything is written."""

    files: list[LabelledImage]
    outputs: list[str]
    sha256: list[str]
    pixels: UInt8[Tensor, "n c h w"]
    num_bytes: int
    notes: list[str]
    by_csv: bool


def protect_folder(request: Request, progress: Progress) -> None:
    """Read the input, make the noise and write the files; resume an interrupted call.

    Raises:
        RequestError: If the input cannot be protected as it stands; nothing is written.
        RunFailedError: If a file cannot be written; files written before remain.
    """
    scan = _read_input(request, progress)
    check_fits(request, scan.pixels, [image.label for image in scan.files])
    prepare_out(request.out, scan.num_bytes)
    classes = sorted({image.label for image in scan.files})
    labels = torch.tensor([classes.index(image.label) for image in scan.files])
    pairs = zip(scan.files, scan.sha256, strict=True)
    inputs = [[image.name, image.label, sha256] for image, sha256 in pairs]
    digest = hash_bytes(repr(inputs).encode())
    started = {"request": request.describe(), "input_sha256": digest}
    done = manifest.begin(request.out, started)
    if not _is_finished(request.out, scan, done):
        protected, report = noise.make_noise(request, scan.pixels, labels, progress)
        entries = _write_all(request, scan, protected, done, progress)
        manifest.refuse_unchanged(request, entries)
        if scan.by_csv:
            write_file(request.out / LABELS, _encode_labels(entries, scan.files))
        source = str(request.source.resolve())
        content = {"source": source, **started, "account": report, "notes": scan.notes}
        manifest.finish(request.out, content, entries)
    noise.remove_noise(request.out)


def _read_input(request: Request, progress: Progress) -> Scan:
    listing = read_folder(request.source, request.labels, request.folders)
    files = _select_split(listing.files, request.split)
    _check_sizes(files, request.side)
    outputs = _name_outputs(files)
    digests, pictures, num_bytes = [], [], 0
    for index, image in enumerate(files):
        content = image.path.read_bytes()
        picture = decode(content, str(image.path))
        num_bytes += picture.pixels.numel() + 4096
        digests.append(hash_bytes(content))
        pictures.append(picture._replace(pixels=resize(picture.pixels[None], request.side)[0]))
        progress("images read", index + 1, len(files))
    try:
        pixels = stack_images(pictures, [image.name for image in files])
    except MixedSizesError as error:
        raise RequestError(f"{error}; or give --side, such as --side 64") from None
    _refuse_grey_profiles(files, pictures, pixels.shape[1])
    notes = [*_count_splits(files), *listing.notes]
    return Scan(files, outputs, digests, pixels, num_bytes, notes, listing.by_csv)


def _select_split(files: tuple[LabelledImage, ...], wanted: str | None) -> list[LabelledImage]:
    """Return the images of one split, or all images if it is None.

    Raises:
        RequestError: If the folder has no such split.
    """
    if wanted is None:
        return list(files)
    splits = sorted({image.split for image in files} - {""})
    split = parse_split(wanted)
    if split not in splits:
        allowed = f"one of {', '.join(splits)}" if splits else "None, as the folder has no splits"
        raise RequestError(f"--split: {allowed}; got {wanted!r}")
    return [image for image in files if image.split == split]


def _count_splits(files: list[LabelledImage]) -> list[str]:
    counts = Counter(image.split for image in files if image.split)
    return [f"{count} images of the {split} split" for split, count in sorted(counts.items())]


def _check_sizes(files: list[LabelledImage], side: int | None) -> None:
    """Refuse unusable or too many images by their headers, before one is decoded."""
    sizes = [count_decoded_bytes(image.path, str(image.path)) for image in files]
    check_total(sum(sizes) if side is None else 3 * side**2 * len(files), files[0].path.parent)


def _refuse_grey_profiles(
    files: list[LabelledImage], pictures: list[DecodedImage], channels: int
) -> None:
    """Refuse grey images with a grey colour profile if they would become colour images."""
    for image, picture in zip(files, pictures, strict=True):
        is_grey = picture.profile is not None and picture.profile[16:20] == b"GRAY"
        if is_grey and channels == 3:
            raise RequestError(
                f"INPUT: {escape(image.name)} has a grey colour profile and lies beside colour "
                f"images; convert it to RGB first"
            )


def _name_outputs(files: list[LabelledImage]) -> list[str]:
    names = [str(Path(image.name).with_suffix(".png").as_posix()) for image in files]
    sources: dict[str, str] = {}
    for name, image in zip(names, files, strict=True):
        alike = unicodedata.normalize("NFC", name).casefold()  # one file on some systems
        if alike in sources:
            both = f"{escape(sources[alike])} and {escape(image.name)}"
            raise RequestError(f"INPUT: {both} would both become {escape(name)}")
        sources[alike] = image.name
    return names


def _is_finished(out: Path, scan: Scan, done: dict[str, ImageEntry]) -> bool:
    if not (out / MANIFEST).exists():
        return False
    return all(image.name in done and _is_whole(out, done[image.name]) for image in scan.files)


def _is_whole(out: Path, entry: ImageEntry) -> bool:
    path = out / entry.file
    return path.is_file() and hash_file(path) == entry.sha256


def _write_all(
    request: Request,
    scan: Scan,
    protected: UInt8[Tensor, "n c h w"],
    done: dict[str, ImageEntry],
    progress: Progress,
) -> list[ImageEntry]:
    entries = []
    for index, image in enumerate(scan.files):
        entry = done.get(image.name)
        if entry is None or not _is_whole(request.out, entry):
            entry = _write_one(request, scan, protected, index)
            manifest.append(request.out, entry)
        entries.append(entry)
        progress("images written", index + 1, len(scan.files))
    return entries


def _write_one(
    request: Request, scan: Scan, protected: UInt8[Tensor, "n c h w"], index: int
) -> ImageEntry:
    image, rows = scan.files[index], slice(index, index + 1)
    content = image.path.read_bytes()
    if hash_bytes(content) != scan.sha256[index]:
        raise RunFailedError(f"{image.path} was changed while it was being protected; start again")
    picture = decode(content, str(image.path))
    clean = picture.pixels.expand(protected.shape[1], -1, -1)[None]
    result = noise.apply_noise(clean, scan.pixels[rows], protected[rows], request.protection)
    encoded = _encode_png(picture._replace(pixels=result[0]))
    write_file(request.out / scan.outputs[index], encoded)
    ratio = float(psnr(clean, result)[0])
    return ImageEntry(
        name=image.name,
        file=scan.outputs[index],
        label=image.label,
        source_sha256=scan.sha256[index],
        sha256=hash_bytes(encoded),
        change=int((result.int() - clean.int()).abs().max()),
        psnr=ratio if np.isfinite(ratio) else None,
        ssim=float(ssim(clean, result)[0]),
    )


def _encode_png(picture: DecodedImage) -> bytes:
    alpha = [] if picture.alpha is None else [picture.alpha[None]]
    planes = torch.cat([picture.pixels, *alpha])
    pixels = planes.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if len(planes) == 1 else pixels)
    image.save(file, "PNG", icc_profile=picture.profile)
    return file.getvalue()


def _encode_labels(entries: list[ImageEntry], files: list[LabelledImage]) -> bytes:
    columns = [key for key in ("split", "owner") if any(getattr(image, key) for image in files)]
    values = {image.name: {"split": image.split, "owner": image.owner} for image in files}
    file = io.StringIO(newline="")
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["file", "label", *columns])
    rows.writerows(
        [entry.file, entry.label, *(values[entry.name][column] for column in columns)]
        for entry in entries
    )
    return file.getvalue().encode()
