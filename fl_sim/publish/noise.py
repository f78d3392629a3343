"""Makes the noise of protected images, stored on disk until all files are written."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from fl_sim.contracts import Protection
from fl_sim.core.errors import RunFailedError
from fl_sim.core.pass_counter import PassCount
from fl_sim.core.perturbation import as_pixels, quantise
from fl_sim.core.resumable import resume_from
from fl_sim.publish.protection_report import protect_and_report
from fl_sim.publish.request import STARTED, Request, wrap_write_errors, write_file

FILE, WORK = "noise.safetensors", ".work"
Progress = Callable[[str, int, int | None], None]  # stage, number done, total


def make_noise(
    request: Request,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    progress: Progress,
) -> tuple[UInt8[Tensor, "n c h w"], dict[str, Any]]:
    """Return the protected images and the report, saved ones if an interrupted call made them.

    `progress` is called with the number of passes per image, and the largest possible.
    """
    path = request.out / FILE
    saved = _load_noise(path)
    if saved is not None:
        return saved
    ids = torch.arange(len(images))

    num_classes = int(labels.max()) + 1
    total = request.protection.predict_passes(len(images), num_classes) // len(images)

    def on_pass(count: PassCount) -> None:
        progress("passes over each image", count.passes // len(images), total or None)

    work = request.out / WORK
    with wrap_write_errors(work), resume_from(work):
        protected, report = protect_and_report(
            request.protection, images, labels, ids, request.seed, on_pass
        )
    if report.largest_change == 0:
        shutil.rmtree(work, ignore_errors=True)
        (request.out / STARTED).unlink(missing_ok=True)
        raise RunFailedError(f"{request.name} changed no pixel of any image: nothing is protected")
    account = asdict(report)
    content = save({"protected": protected.contiguous()}, {"account": json.dumps(account)})
    write_file(path, content, private=True)
    shutil.rmtree(work, ignore_errors=True)
    return protected, account


def _load_noise(path: Path) -> tuple[Tensor, dict[str, Any]] | None:
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("protected"), json.loads(file.metadata()["account"])
    except (OSError, SafetensorError):
        return None


def remove_noise(out: Path) -> None:
    """Remove the saved noise once every file is written."""
    (out / FILE).unlink(missing_ok=True)


def apply_noise(
    images: UInt8[Tensor, "n c h w"],
    small: UInt8[Tensor, "n c s t"],
    protected: UInt8[Tensor, "n c s t"],
    protection: Protection,
) -> UInt8[Tensor, "n c h w"]:
    """Return the protected images at their own size, with bilinearly scaled noise if needed.

    Guarantee: the radius holds after rounding, as for every protection.
    """
    if images.shape == protected.shape:
        return protected
    noise = as_pixels(protected) - as_pixels(small)
    height, width = images.shape[2:]
    large = functional.interpolate(noise, (height, width), mode="bilinear")
    return quantise(images, large, protection.radius, protection.norm)
