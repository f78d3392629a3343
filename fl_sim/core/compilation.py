"""Compilation of the networks that clients train, by `torch.compile`."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from fl_sim.core.errors import require

_current: ContextVar[bool] = ContextVar("compilation", default=False)


def is_compilation_on() -> bool:
    """Return whether networks are compiled, as the innermost `use_compilation` says."""
    return _current.get()


@contextmanager
def use_compilation(on: bool) -> Iterator[None]:
    """Compile the networks of trainers that are made inside the block."""
    token = _current.set(on)
    try:
        yield
    finally:
        _current.reset(token)


def check_compiler(device: torch.device) -> None:
    """Raise a `FieldError` if networks on a CPU cannot be compiled for want of a C++ compiler."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    found = device.type != "cpu" or shutil.which(name) is not None
    require(found, "compile", f"False without a C++ compiler: {name} is not installed", True)
