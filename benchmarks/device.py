"""The device of a benchmark, which the parent process chooses for its children."""

import os

import torch

from fl_sim.core.device import resolve_devices

DEVICE = "BENCHMARKS_DEVICE"


def find_device() -> torch.device:
    """Return the device; products in single precision are those of IEEE there, and not TF32."""
    device = resolve_devices(os.environ.get(DEVICE, "cpu"))[0]
    if device.type == "cuda":
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return device
