"""Threads and memory of the current process."""

import resource
import sys
from pathlib import Path

import torch

LARGE = 30 << 20  # bytes, just below the largest block that glibc adapts to


def configure_process() -> None:
    """Use one thread, on which the bits of reductions depend, and keep freed memory.

    glibc returns large blocks to the system as soon as they are freed, so a network's activations
    would need fresh pages in every batch, until a block of this size was freed once (mallopt(3),
    M_MMAP_THRESHOLD).
    """
    torch.set_num_threads(1)
    torch.empty(LARGE, dtype=torch.uint8)


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
