"""Protect a folder of images: lossless files of the same names, and a manifest."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from fl_sim.data.files import Labelled, Picture, decode, labelled_files, stacked
from fl_sim.data.sources import MissingDataError
from fl_sim.errors import RequestError, RunFailedError
from fl_sim.metrics.quality import psnr, ssim
from fl_sim.publish import manifest, noise
from fl_sim.publish.manifest import Entry, sha256
from fl_sim.publish.noise import Watch
from fl_sim.publish.request import Request, prepare_out, write_whole


@dataclass(frozen=True, eq=False)
class Scan:
    """The whole input, read and decoded once: nothing is written before all of it is sound."""

    files: list[Labelled]
    outputs: list[str]
    sha256: list[str]
    pixels: UInt8[Tensor, "n c h w"]
    num_bytes: int


def protect_folder(request: Request, watch: Watch) -> None:
    """Read everything, make the noise, write file after file; goes on where it was interrupted.

    Raises:
        RequestError: for an input that cannot be protected as it stands; nothing is written.
        RunFailedError: where a file cannot be written; what was written is kept.
    """
    scan = _scan(request, watch)
    prepare_out(request.out, scan.num_bytes)
    classes = sorted({own.label for own in scan.files})
    labels = torch.tensor([classes.index(own.label) for own in scan.files])
    found = [
        [own.name, own.label, digest] for own, digest in zip(scan.files, scan.sha256, strict=True)
    ]
    digest = sha256(repr(found).encode())
    started = {"request": request.describe(), "input_sha256": digest}
    done = manifest.begin(request.out, started)
    if not _all_there(request.out, scan, done):
        protected, account = noise.made(request, scan.pixels, labels, watch)
        entries = _write_all(request, scan, protected, done, watch)
        if request.labels is not None:
            write_whole(request.out / "labels.csv", _labels_csv(entries))
        content = {"source": str(request.source.resolve()), **started, "account": account}
        manifest.finish(request.out, content, entries)
    noise.drop(request.out)


def _scan(request: Request, watch: Watch) -> Scan:
    files = labelled_files(request.source, request.labels)
    outputs = _output_names(files)
    digests, pictures, num_bytes = [], [], 0
    for index, own in enumerate(files):
        content = own.path.read_bytes()
        picture = decode(content, str(own.path))
        num_bytes += picture.pixels.numel() + 4096
        digests.append(sha256(content))
        pictures.append(
            picture._replace(pixels=noise.scaled(picture.pixels[None], request.side)[0])
        )
        watch("images read", index + 1, len(files))
    try:
        pixels = stacked(pictures, [own.name for own in files])
    except MissingDataError as error:
        raise RequestError(f"{error}; or give --side, such as --side 64") from None
    return Scan(files, outputs, digests, pixels, num_bytes)


def _output_names(files: list[Labelled]) -> list[str]:
    names = [str(Path(own.name).with_suffix(".png").as_posix()) for own in files]
    seen: dict[str, str] = {}
    for name, own in zip(names, files, strict=True):
        if name in seen:
            raise RequestError(f"INPUT: {seen[name]} and {own.name} would both become {name}")
        seen[name] = own.name
    return names


def _all_there(out: Path, scan: Scan, done: dict[str, Entry]) -> bool:
    if not (out / manifest.MANIFEST).exists():
        return False
    return all(own.name in done and _is_whole(out, done[own.name]) for own in scan.files)


def _is_whole(out: Path, entry: Entry) -> bool:
    path = out / entry.file
    return path.exists() and sha256(path.read_bytes()) == entry.sha256


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
    if sha256(content) != scan.sha256[index]:
        raise RunFailedError(f"{own.path} was changed while it was being protected; start again")
    picture = decode(content, str(own.path))
    clean = picture.pixels.expand(protected.shape[1], -1, -1)[None]
    result = noise.released(clean, scan.pixels[rows], protected[rows], request.protection)
    encoded = _png(picture._replace(pixels=result[0]))
    write_whole(request.out / scan.outputs[index], encoded)
    ratio = float(psnr(clean, result)[0])
    return Entry(
        name=own.name,
        file=scan.outputs[index],
        label=own.label,
        source_sha256=scan.sha256[index],
        sha256=sha256(encoded),
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


def _labels_csv(entries: list[Entry]) -> bytes:
    file = io.StringIO(newline="")
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["file", "label"])
    rows.writerows([entry.file, entry.label] for entry in entries)
    return file.getvalue().encode()
