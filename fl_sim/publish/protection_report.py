"""Runs a protection and reports the change of the images, clipping, time and passes."""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.contracts import Protection
from fl_sim.core.device import call_on_device
from fl_sim.core.pass_counter import Listener, count_passes
from fl_sim.core.perturbation import as_pixels


@dataclass(frozen=True)
class ProtectionReport:
    """The effect of a protection on images, and its cost.

    Attributes:
        radius: Requested radius, for pixels in [0, 1].
        largest_change: Largest change of a pixel after rounding to 8 bits, in the same unit.
        mean_change: Root mean square of all changes after rounding, in the same unit.
        clipped: Share of the signed budget for which black and white pixels have no room: 0 for
            mid-grey images, 0.5 if all pixels are black.
        num_images: Number of protected images.
        wall_seconds: Wall-clock time.
        cpu_seconds: CPU time.
        passes_per_image: Forward and backward passes through a network.
    """

    radius: float
    largest_change: float
    mean_change: float
    clipped: float
    num_images: int
    wall_seconds: float
    cpu_seconds: float
    passes_per_image: float


def compute_clipped_share(images: UInt8[Tensor, "n c h w"], radius: float) -> float:
    """Return the share of [-radius, radius] that leads out of [0, 1], averaged over all pixels.

    Source: this project.

    >>> compute_clipped_share(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 8 / 255)
    0.5
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    room = (levels + radius).clamp(max=1) - (levels - radius).clamp(min=0)
    counts = images.flatten().bincount(minlength=256).double()
    return 1 - float((counts * room).sum() / counts.sum()) / (2 * radius)


def protect_and_report(
    protection: Protection,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    sample_ids: Int64[Tensor, " n"],
    seed: int,
    on_pass: Listener | None = None,
) -> tuple[UInt8[Tensor, "n c h w"], ProtectionReport]:
    """Return the protected images and the report; `on_pass` is called as passes are counted."""
    wall, cpu = time.perf_counter(), time.process_time()
    with count_passes(on_pass) as counter:
        protected = call_on_device(protection.protect, images, labels, sample_ids, seed)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    change = as_pixels(protected) - as_pixels(images)
    return protected, ProtectionReport(
        radius=protection.radius,
        largest_change=float(change.abs().max()),
        mean_change=float(change.double().square().mean().sqrt()),
        clipped=compute_clipped_share(images, protection.radius),
        num_images=len(images),
        wall_seconds=wall,
        cpu_seconds=cpu,
        passes_per_image=counter.passes / len(images),
    )
