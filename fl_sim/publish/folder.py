"""Protect a folder of images: lossless files of the same names, and a manifest."""

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

from fl_sim.core.atomic_io import bytes_sha256, file_sha256
from fl_sim.core.errors import RequestError, RunFailedError
from fl_sim.data.folder_contents import Labelled
from fl_sim.data.folders import read_folder
from fl_sim.data.pictures import (
    MixedSizesError,
    Picture,
    check_total,
    decode,
    num_bytes,
    shown,
    stacked,
)
from fl_sim.data.scaling import resize
from fl_sim.data.splits import part_of
from fl_sim.metrics.quality import psnr, ssim
from fl_sim.publish import manifest, noise
from fl_sim.publish.manifest import Entry
from fl_sim.publish.noise import Watch
from fl_sim.publish.request import MANIFEST, Request, check_fits, prepare_out, write_whole

LABELS = "labels.csv"


@dataclass(frozen=True, eq=False)
class Scan:
    """The whole input, read and decoded once: nothing is written before all of it is sound."""

    files: list[Labelled]
    outputs: list[str]
    sha256: list[str]
    pixels: UInt8[Tensor, "n c h w"]
    num_bytes: int
    notes: list[str]
    by_csv: bool


def protect_folder(request: Request, watch: Watch) -> None:
    """Read everything, make the noise, write file after file; goes on where it was interrupted.

    Raises:
        RequestError: for an input that cannot be protected as it stands; nothing is written.
        RunFailedError: where a file cannot be written; what was written is kept.
    """
    scan = _scan(request, watch)
    check_fits(request, scan.pixels, [own.label for own in scan.files])
    prepare_out(request.out, scan.num_bytes)
    classes = sorted({own.label for own in scan.files})
    labels = torch.tensor([classes.index(own.label) for own in scan.files])
    found = [
        [own.name, own.label, digest] for own, digest in zip(scan.files, scan.sha256, strict=True)
    ]
    digest = bytes_sha256(repr(found).encode())
    started = {"request": request.describe(), "input_sha256": digest}
    done = manifest.begin(request.out, started)
    if not _all_there(request.out, scan, done):
        protected, account = noise.make_noise(request, scan.pixels, labels, watch)
        entries = _write_all(request, scan, protected, done, watch)
        manifest.refuse_unchanged(request, entries)
        if scan.by_csv:
            write_whole(request.out / LABELS, _labels_csv(entries, scan.files))
        source = str(request.source.resolve())
        content = {"source": source, **started, "account": account, "notes": scan.notes}
        manifest.finish(request.out, content, entries)
    noise.drop(request.out)


def _scan(request: Request, watch: Watch) -> Scan:
    listing = read_folder(request.source, request.labels, request.folders)
    files = _of_part(listing.files, request.split)
    _check_sizes(files, request.side)
    outputs = _output_names(files)
    digests, pictures, num_bytes = [], [], 0
    for index, own in enumerate(files):
        content = own.path.read_bytes()
        picture = decode(content, str(own.path))
        num_bytes += picture.pixels.numel() + 4096
        digests.append(bytes_sha256(content))
        pictures.append(picture._replace(pixels=resize(picture.pixels[None], request.side)[0]))
        watch("images read", index + 1, len(files))
    try:
        pixels = stacked(pictures, [own.name for own in files])
    except MixedSizesError as error:
        raise RequestError(f"{error}; or give --side, such as --side 64") from None
    _refuse_grey_profiles(files, pictures, pixels.shape[1])
    notes = [*_parts_of(files), *listing.notes]
    return Scan(files, outputs, digests, pixels, num_bytes, notes, listing.by_csv)


def _of_part(files: tuple[Labelled, ...], wanted: str | None) -> list[Labelled]:
    """Return the images of one part, or all.

    Raises:
        RequestError: for a part that the folder does not have.
    """
    if wanted is None:
        return list(files)
    parts = sorted({own.part for own in files} - {""})
    part = part_of(wanted)
    if part not in parts:
        there = f"one of {', '.join(parts)}" if parts else "None, as the folder has no parts"
        raise RequestError(f"--split: {there}; got {wanted!r}")
    return [own for own in files if own.part == part]


def _parts_of(files: list[Labelled]) -> list[str]:
    counts = Counter(own.part for own in files if own.part)
    return [f"{count} images of the part {part}" for part, count in sorted(counts.items())]


def _check_sizes(files: list[Labelled], side: int | None) -> None:
    """Look at every header before an image is decoded: what cannot be used, and how much it is."""
    sizes = [num_bytes(own.path, str(own.path)) for own in files]
    check_total(sum(sizes) if side is None else 3 * side**2 * len(files), files[0].path.parent)


def _refuse_grey_profiles(files: list[Labelled], pictures: list[Picture], channels: int) -> None:
    """Refuse a grey image whose profile says so, where it becomes a colour image."""
    for own, picture in zip(files, pictures, strict=True):
        is_grey = picture.profile is not None and picture.profile[16:20] == b"GRAY"
        if is_grey and channels == 3:
            raise RequestError(
                f"INPUT: {shown(own.name)} has a grey colour profile and lies beside colour "
                f"images; convert it to RGB first"
            )


def _output_names(files: list[Labelled]) -> list[str]:
    names = [str(Path(own.name).with_suffix(".png").as_posix()) for own in files]
    seen: dict[str, str] = {}
    for name, own in zip(names, files, strict=True):
        alike = unicodedata.normalize("NFC", name).casefold()  # one file on some systems
        if alike in seen:
            both = f"{shown(seen[alike])} and {shown(own.name)}"
            raise RequestError(f"INPUT: {both} would both become {shown(name)}")
        seen[alike] = own.name
    return names


def _all_there(out: Path, scan: Scan, done: dict[str, Entry]) -> bool:
    if not (out / MANIFEST).exists():
        return False
    return all(own.name in done and _is_whole(out, done[own.name]) for own in scan.files)


def _is_whole(out: Path, entry: Entry) -> bool:
    path = out / entry.file
    return path.is_file() and file_sha256(path) == entry.sha256


def _write_all(
    request: Request,
    scan: Scan,
    protected: UInt8[Tensor, "n c h w"],
    done: dict[str, Entry],
    watch: Watch,
) -> list[Entry]:
    entries = []
    for index, own in enumerate(scan.files):
        entry = done.get(own.name)
        if entry is None or not _is_whole(request.out, entry):
            entry = _write_one(request, scan, protected, index)
            manifest.append(request.out, entry)
        entries.append(entry)
        watch("images written", index + 1, len(scan.files))
    return entries


def _write_one(
    request: Request, scan: Scan, protected: UInt8[Tensor, "n c h w"], index: int
) -> Entry:
    own, rows = scan.files[index], slice(index, index + 1)
    content = own.path.read_bytes()
    if bytes_sha256(content) != scan.sha256[index]:
        raise RunFailedError(f"{own.path} was changed while it was being protected; start again")
    picture = decode(content, str(own.path))
    clean = picture.pixels.expand(protected.shape[1], -1, -1)[None]
    result = noise.release(clean, scan.pixels[rows], protected[rows], request.protection)
    encoded = _png(picture._replace(pixels=result[0]))
    write_whole(request.out / scan.outputs[index], encoded)
    ratio = float(psnr(clean, result)[0])
    return Entry(
        name=own.name,
        file=scan.outputs[index],
        label=own.label,
        source_sha256=scan.sha256[index],
        sha256=bytes_sha256(encoded),
        change=int((result.int() - clean.int()).abs().max()),
        psnr=ratio if np.isfinite(ratio) else None,
        ssim=float(ssim(clean, result)[0]),
    )


def _png(picture: Picture) -> bytes:
    planes = (
        picture.pixels
        if picture.alpha is None
        else torch.cat([picture.pixels, picture.alpha[None]])
    )
    pixels = planes.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if len(planes) == 1 else pixels)
    image.save(file, "PNG", icc_profile=picture.profile)
    return file.getvalue()


def _labels_csv(entries: list[Entry], files: list[Labelled]) -> bytes:
    columns = ["split"] * any(own.part for own in files) + ["owner"] * any(
        own.owner for own in files
    )
    said = {own.name: {"split": own.part, "owner": own.owner} for own in files}
    file = io.StringIO(newline="")
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["file", "label", *columns])
    rows.writerows(
        [own.file, own.label, *(said[own.name][column] for column in columns)] for own in entries
    )
    return file.getvalue().encode()
