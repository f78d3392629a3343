"""Protects the images of an .npz file, such as those of MedMNIST."""

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from fl_sim.core.atomic_io import hash_bytes, hash_file
from fl_sim.core.errors import RequestError, require
from fl_sim.data.arrays import ArrayPair, NpzFile, Split
from fl_sim.data.scaling import resize
from fl_sim.data.splits import parse_split
from fl_sim.metrics.quality import psnr, ssim
from fl_sim.publish import manifest, noise
from fl_sim.publish.manifest import ImageEntry
from fl_sim.publish.noise import Progress
from fl_sim.publish.request import Request, check_fits, prepare_out, write_file

BATCH = 1024


def protect_arrays(request: Request, progress: Progress) -> None:
    """Write a copy of the file with protected images; other arrays are copied byte for byte.

    Raises:
        RequestError: If the file cannot be protected as it stands; nothing is written.
        RunFailedError: If a file cannot be written.
    """
    require(request.folders is None, "folders", "None for an .npz file", request.folders)
    arrays = NpzFile(request.source)
    pairs = choose_pairs(arrays, request.split)
    splits = [split for split in arrays.read(pairs) if len(split.labels)]
    if not splits:
        raise RequestError("INPUT: the file holds no images")
    images, numbers = join_splits(splits)
    labels = numbers.unique(return_inverse=True)[1]  # renumbered, so that no class is empty
    small = resize(images, request.side)
    check_fits(request, small, [str(label) for label in labels.tolist()])
    prepare_out(request.out, 2 * images.numel() + request.source.stat().st_size)
    digest = hash_file(request.source)
    started = {"request": request.describe(), "input_sha256": digest}
    done = manifest.begin(request.out, started)
    target = request.out / request.source.name
    if not (done and target.exists()):
        protected, report = noise.make_noise(request, small, labels, progress)
        parts = zip(images.split(BATCH), small.split(BATCH), protected.split(BATCH), strict=True)
        result = torch.cat([noise.apply_noise(*part, request.protection) for part in parts])
        sizes = [len(split.labels) for split in splits]
        changed = {
            split.pair.images: split.as_stored(part)
            for split, part in zip(splits, result.split(sizes), strict=True)
        }
        write_file(target, _replace_arrays(request.source, changed))
        entries = _measure_entries(request.source.name, splits, images, result, progress)
        manifest.refuse_unchanged(request, entries)
        untouched = [pair.images for pair in arrays.pairs if pair not in pairs]
        notes = [f"{', '.join(untouched)} left as they are"] if untouched else []
        source = str(request.source.resolve())
        content = {"source": source, **started, "account": report, "notes": notes}
        manifest.finish(request.out, content, entries)
    noise.remove_noise(request.out)


def _replace_arrays(source: Path, changed: dict[str, NDArray[np.uint8]]) -> bytes:
    """Return the .npz file with the changed arrays; the others are copied without decoding."""
    file = io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            array = changed.get(info.filename.removesuffix(".npy"))
            with new.open(zipfile.ZipInfo(info.filename), "w", force_zip64=True) as member:
                if array is not None:
                    np.lib.format.write_array(member, array, allow_pickle=False)
                    continue
                with old.open(info) as unchanged:
                    shutil.copyfileobj(unchanged, member)
    return file.getvalue()


def choose_pairs(arrays: NpzFile, wanted: str | None) -> list[ArrayPair]:
    """Return the split of this name, or all splits if it is None.

    Raises:
        RequestError: If there is no such split.
    """
    if wanted is None:
        return arrays.pairs
    known, split = {pair.split or "images": pair for pair in arrays.pairs}, parse_split(wanted)
    same = [pair for pair in arrays.pairs if split and parse_split(pair.split) == split]
    if wanted not in known and len(same) != 1:
        raise RequestError(f"--split: one of {', '.join(known)}; got {wanted!r}")
    return [known[wanted]] if wanted in known else same


def join_splits(splits: list[Split]) -> tuple[UInt8[Tensor, "n c h w"], Tensor]:
    """Return the concatenated images and labels of all splits.

    Raises:
        RequestError: If the sizes of their images differ.
    """
    shapes = {tuple(split.images.shape[1:]) for split in splits}
    if len(shapes) > 1:
        raise RequestError(f"INPUT: splits of one image size; got {sorted(shapes)}; use --split")
    images = torch.cat([split.images for split in splits])
    return images, torch.cat([split.labels for split in splits])


def _measure_entries(
    file: str,
    splits: list[Split],
    images: UInt8[Tensor, "n c h w"],
    result: UInt8[Tensor, "n c h w"],
    progress: Progress,
) -> list[ImageEntry]:
    names = [(split.pair.images, i) for split in splits for i in range(len(split.labels))]
    labels = torch.cat([split.labels for split in splits]).tolist()
    entries: list[ImageEntry] = []
    for rows in torch.arange(len(images)).split(BATCH):
        clean, noisy = images[rows], result[rows]
        change = (noisy.int() - clean.int()).abs().amax((1, 2, 3)).tolist()
        ratios, likeness = psnr(clean, noisy).tolist(), ssim(clean, noisy).tolist()
        for at, row in enumerate(rows.tolist()):
            array, index = names[row]
            entries.append(
                ImageEntry(
                    name=f"{array}/{index}",
                    file=file,
                    label=str(labels[row]),
                    source_sha256=hash_bytes(clean[at].numpy().tobytes()),
                    sha256=hash_bytes(noisy[at].numpy().tobytes()),
                    change=change[at],
                    psnr=ratios[at] if np.isfinite(ratios[at]) else None,
                    ssim=likeness[at],
                )
            )
        progress("images measured", len(entries), len(images))
    return entries
