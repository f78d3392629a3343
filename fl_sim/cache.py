"""A cache on disk, keyed by content: what was computed once is read back by everybody.

It lives in `$FL_SIM_CACHE`, or `~/.cache/fl_sim`. Processes that want the same entry wait for
the one that computes it.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fl_sim.scratch import scratch


def cache_folder() -> Path:
    """Return the folder of the cache; it may not exist yet."""
    return Path(os.environ.get("FL_SIM_CACHE") or Path.home() / ".cache" / "fl_sim")


def digest(*parts: Tensor | str | int) -> str:
    """Return a hash of tensors (shape, dtype and content), plain values, and the torch build."""
    sha = hashlib.sha256(torch.__version__.encode())
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode())
            sha.update(part.contiguous().numpy().data)
        else:
            sha.update(f"{part!r};".encode())
    return sha.hexdigest()[:32]


def cached(kind: str, key: str, compute: Callable[[], Tensor]) -> Tensor:
    """Return the entry `key` of `kind`, computing and storing it where there is none.

    What is interrupted goes on from its last checkpoint the next time.
    """
    path = cache_folder() / kind / f"{key}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        if not path.exists():
            work, partial = path.with_suffix(".work"), path.with_suffix(f".{os.getpid()}")
            with scratch(work):
                save_file({"entry": compute().contiguous()}, partial)
            partial.replace(path)
            shutil.rmtree(work, ignore_errors=True)
    return load_file(path)["entry"]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
