"""Compilation of the networks that clients train, by `torch.compile`."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

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
    """Raise a `FieldError` if networks cannot be compiled for want of a compiler.

    A CPU's code is C++. On a CUDA device, Triton starts its kernels from C. Both include Python's
    headers.
    """
    default = "clang++" if sys.platform == "darwin" else "g++"
    compilers = {
        "cpu": ("C++", [os.environ.get("CXX", default)]),
        "cuda": ("C", [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]),
    }
    if device.type not in compilers:
        return
    language, names = compilers[device.type]
    found = next(filter(None, map(shutil.which, names)), None)
    allowed = f"False without a {language} compiler: {' or '.join(names)}"
    require(found is not None, "compile", f"{allowed} is not installed", True)
    require(_works(str(found)), "compile", f"{allowed} does not work", True)
    header = Path(sysconfig.get_path("include"), "Python.h")
    has_headers = sys.platform == "darwin" or header.exists()  # frameworks keep them elsewhere
    allowed = f"False without Python's headers, such as python3-dev: {header} is missing"
    require(has_headers, "compile", allowed, True)


@cache
def _works(compiler: str) -> bool:
    return subprocess.run([compiler, "--version"], capture_output=True).returncode == 0
