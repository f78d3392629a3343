"""Threads and memory of the current process."""

import ctypes
import logging
import os
import resource
import sys
from pathlib import Path

import torch

from fl_sim.core.portable import (
    choose_portable_instructions,
    is_portable,
    refuse_other_processor,
)

# Parameters of glibc's mallopt(3), and their values in bytes.
M_TRIM_THRESHOLD, KEPT = -1, 1 << 30
M_MMAP_THRESHOLD, LARGEST = -3, 1 << 30


def configure_process() -> None:
    """Use one thread, on which the bits of reductions depend, and keep freed memory.

    glibc returns large blocks to the system as soon as they are freed, so a network's activations
    would need fresh pages in every batch. Other C libraries are left as they are.
    """
    torch.set_num_threads(1)
    if is_portable():
        refuse_other_processor()
        choose_portable_instructions()  # or raise, if the variable was set too late
        # oneDNN and NNPACK divide convolutions by the processor's caches and instructions.
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        torch.backends.nnpack.set_flags(False)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST)


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def silence_logs() -> None:
    """Silence the progress logs of Flower and Ray, but not their errors."""
    # A filter, since Flower sets a level of its own when it is imported.
    logging.getLogger("flwr").addFilter(_is_error)
    logging.getLogger("ray").setLevel(logging.ERROR)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def used_memory() -> int:
    """Return the memory that this process uses now, in bytes."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return peak_memory()


def peak_memory() -> int:
    """Return the most memory that this process has used, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def available_memory() -> int:
    """Return the memory that is left on the machine or in the container, in bytes."""
    machine = [line for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable")]
    free = [int(line.split()[1]) * 1024 for line in machine]
    limit = _lines(Path("/sys/fs/cgroup/memory.max"))
    used = _lines(Path("/sys/fs/cgroup/memory.current"))
    if limit and used and limit[0].isdigit():
        free.append(int(limit[0]) - int(used[0]))
    return min(free, default=sys.maxsize // 2)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
