"""Protect the images of an .npz file, MedMNIST's among them."""

import io

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim.data.files import Split, read_npz
from fl_sim.errors import RequestError
from fl_sim.metrics.quality import psnr, ssim
from fl_sim.publish import manifest, noise
from fl_sim.publish.manifest import Entry, sha256
from fl_sim.publish.noise import Watch
from fl_sim.publish.request import Request, prepare_out, write_whole

BATCH = 1024


def protect_arrays(request: Request, watch: Watch) -> None:
    """Write the file again with protected images; whatever else it holds is kept as it is.

    Raises:
        RequestError: for a file that cannot be protected as it stands; nothing is written.
        RunFailedError: where a file cannot be written.
    """
    arrays, splits = read_npz(request.source)
    splits = chosen_splits(splits, request.split)
    images, labels = joined(splits)
    prepare_out(request.out, 2 * sum(array.nbytes for array in arrays.values()))
    digest = sha256(request.source.read_bytes())
    started = {"request": request.describe(), "input_sha256": digest}
    done = manifest.begin(request.out, started)
    target = request.out / request.source.name
    if not (done and target.exists()):
        small = noise.scaled(images, request.side)
        protected, account = noise.made(request, small, labels, watch)
        parts = zip(images.split(BATCH), small.split(BATCH), protected.split(BATCH), strict=True)
        result = torch.cat([noise.released(*part, request.protection) for part in parts])
        sizes = [len(split.labels) for split in splits]
        for split, own in zip(splits, result.split(sizes), strict=True):
            arrays[f"{split.prefix}images"] = split.as_stored(own)
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        write_whole(target, file.getvalue())
        entries = _entries(request.source.name, splits, images, result, watch)
        content = {"source": str(request.source.resolve()), **started, "account": account}
        manifest.finish(request.out, content, entries)
    noise.drop(request.out)


def chosen_splits(splits: list[Split], wanted: str | None) -> list[Split]:
    """Return the split of this name, or all that hold an image.

    Raises:
        RequestError: for a split that is not there, or no images at all.
    """
    known = {split.prefix.rstrip("_") or "images": split for split in splits}
    if wanted is not None and wanted not in known:
        raise RequestError(f"--split: one of {', '.join(known)}; got {wanted!r}")
    chosen = splits if wanted is None else [known[wanted]]
    chosen = [split for split in chosen if len(split.labels)]
    if not chosen:
        raise RequestError("INPUT: the file holds no images")
    return chosen


def joined(splits: list[Split]) -> tuple[UInt8[Tensor, "n c h w"], Tensor]:
    """Return the images and labels of all splits, one after the other.

    Raises:
        RequestError: where their sizes differ.
    """
    shapes = {tuple(split.images.shape[1:]) for split in splits}
    if len(shapes) > 1:
        raise RequestError(f"INPUT: splits of one image size; got {sorted(shapes)}; use --split")
    images = torch.cat([split.images for split in splits])
    return images, torch.cat([split.labels for split in splits])


def _entries(
    file: str,
    splits: list[Split],
    images: UInt8[Tensor, "n c h w"],
    result: UInt8[Tensor, "n c h w"],
    watch: Watch,
) -> list[Entry]:
    names = [(split.prefix, i) for split in splits for i in range(len(split.labels))]
    labels = torch.cat([split.labels for split in splits]).tolist()
    entries: list[Entry] = []
    for rows in torch.arange(len(images)).split(BATCH):
        clean, own = images[rows], result[rows]
        change = (own.int() - clean.int()).abs().amax((1, 2, 3)).tolist()
        ratios, likeness = psnr(clean, own).tolist(), ssim(clean, own).tolist()
        for at, row in enumerate(rows.tolist()):
            prefix, index = names[row]
            entries.append(
                Entry(
                    name=f"{prefix}images/{index}",
                    file=file,
                    label=str(labels[row]),
                    source_sha256=sha256(clean[at].numpy().tobytes()),
                    sha256=sha256(own[at].numpy().tobytes()),
                    change=change[at],
                    psnr=ratios[at] if np.isfinite(ratios[at]) else None,
                    ssim=likeness[at],
                )
            )
        watch("images measured", len(entries), len(images))
    return entries
