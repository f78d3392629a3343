"""The precision in which networks compute: single precision, TF32 or bfloat16.

Parameters, updates and noise are in single precision always.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from fl_sim.core.errors import require
from fl_sim.core.literals import Precision

_current: ContextVar[Precision] = ContextVar("precision", default="float32")


def current_precision() -> Precision:
    """Return the precision of the innermost `use_precision`, or `float32` outside of any."""
    return _current.get()


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise a `FieldError` for a precision that a device does not have."""
    allowed = f"float32 or bf16 on {device.type}, as TF32 is a mode of NVIDIA's GPUs"
    require(precision != "tf32" or device.type == "cuda", "precision", allowed, precision)


@contextmanager
def use_precision(precision: Precision | None) -> Iterator[None]:
    """Compute in a precision inside the block; None keeps the surrounding one.

    Networks of federations that are loaded inside the block multiply in bfloat16 for `bf16`. With
    `tf32`, GPUs round the factors of products to 10 bits and add them up in single precision.
    """
    if precision is None:
        yield
        return
    switches: Any = ()
    if "tf32" in (precision, current_precision()):  # else they are off already
        switches = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    token = _current.set(precision)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
        _current.reset(token)
