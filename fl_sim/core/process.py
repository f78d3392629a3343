"""The current process: its threads, and the memory that it uses and may use."""

import resource
import sys
from pathlib import Path

import torch

LARGE = 30 << 20  # bytes, just below what glibc learns from


def configure_process() -> None:
    """Use one thread, as everywhere: reductions depend on it. And keep memory that is freed.

    glibc gives large blocks back to the system as soon as they are freed, and a network's
    activations would come as fresh pages in every batch, until it has seen one block as large
    as this freed (mallopt(3), M_MMAP_THRESHOLD).
    """
    torch.set_num_threads(1)
    torch.empty(LARGE, dtype=torch.uint8)


def used_memory() -> int:
    """Return the bytes that this process holds now."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return peak_memory()


def peak_memory() -> int:
    """Return the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def available_memory() -> int:
    """Return the bytes that can still be had, of the machine or the container."""
    machine = [line for line in _lines(Path("/proc/meminfo")) if line.startswith("MemAvailable")]
    found = [int(line.split()[1]) * 1024 for line in machine]
    limit = _lines(Path("/sys/fs/cgroup/memory.max"))
    taken = _lines(Path("/sys/fs/cgroup/memory.current"))
    if limit and taken and limit[0].isdigit():
        found.append(int(limit[0]) - int(taken[0]))
    return min(found, default=sys.maxsize // 2)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
