"""Fashion-MNIST, from real IDX files wherever they can be had."""

import gzip
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts import Dataset
from fl_sim.core.atomic_io import hash_bytes
from fl_sim.core.cache import cache_folder
from fl_sim.data.sources import MissingDataError, Source

SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
# SHA-256 of the unpacked files: the mirrors compress them differently.
CHECKSUMS = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
CLASS_NAMES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@final
class FashionMnist(Source):
    """70,000 grey images of clothes, 28 x 28, ten classes.

    Source: Xiao et al. (2017), https://arxiv.org/abs/1708.07747. Found in this order: a path
    that the user gives, the cache, the folder of Debian's package dataset-fashion-mnist, that
    package fetched by apt-get without root, torchvision's mirror.
    """

    name: ClassVar[str] = "fashion_mnist"
    is_published: ClassVar[bool] = True

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the dataset from the first place that has it."""
        if path is not None:
            return _read(path)
        cache = cache_folder() / "data" / self.name
        places: list[tuple[str, Callable[[], Path]]] = [
            (str(cache), lambda: cache),
            (str(SYSTEM_FOLDER), lambda: SYSTEM_FOLDER),
            (f"apt-get download {DEBIAN_PACKAGE}", lambda: _fetch_debian(cache)),
            ("torchvision's mirror", lambda: _fetch_mirror(cache)),
        ]
        tried = []
        for place, folder in places if fetch else places[:2]:
            try:
                return _read(folder())
            except (MissingDataError, OSError, RuntimeError, subprocess.SubprocessError) as error:
                tried.append(f"{place} ({str(error).splitlines()[0]})")
        raise MissingDataError(
            f"data.dataset: fashion_mnist was not found; tried {'; '.join(tried)}"
        )


def _read(folder: Path) -> Dataset:
    arrays = [_read_idx(folder, name) for name in CHECKSUMS]
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(
        name=FashionMnist.name,
        train_images=train_images.unsqueeze(1),
        train_labels=train_labels.long(),
        test_images=test_images.unsqueeze(1),
        test_labels=test_labels.long(),
        class_names=CLASS_NAMES,
        origin=str(folder),
    )


def _read_idx(folder: Path, name: str) -> UInt8[Tensor, "..."]:
    """Read one IDX file, packed or not, and check its content."""
    packed, plain = folder / f"{name}.gz", folder / name
    if not (packed.exists() or plain.exists()):
        raise MissingDataError(f"no {name}.gz in {folder}")
    try:
        content = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
    except (OSError, EOFError) as error:
        raise MissingDataError(f"{packed} is damaged: {error}") from None
    if hash_bytes(content) != CHECKSUMS[name]:
        raise MissingDataError(f"{name} in {folder} is damaged: wrong checksum")
    num_axes = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=num_axes, offset=4).astype(int)
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * num_axes)
    return torch.from_numpy(values.reshape(shape).copy())


def _fetch_debian(cache: Path) -> Path:
    """Fetch Debian's package and unpack it into the cache; needs no root."""
    with tempfile.TemporaryDirectory() as work:
        _run(["apt-get", "download", DEBIAN_PACKAGE], Path(work))
        (package,) = Path(work).glob("*.deb")
        _run(["dpkg-deb", "-x", str(package), "unpacked"], Path(work))
        return _copy_to_cache(Path(work) / "unpacked" / SYSTEM_FOLDER.relative_to("/"), cache)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise MissingDataError(f"{command[0]} failed: {done.stderr.strip() or done.returncode}")


def _fetch_mirror(cache: Path) -> Path:
    from fl_sim.core.vision import torchvision

    with tempfile.TemporaryDirectory() as work:
        torchvision.datasets.FashionMNIST(work, download=True)
        return _copy_to_cache(Path(work) / "FashionMNIST" / "raw", cache)


def _copy_to_cache(folder: Path, cache: Path) -> Path:
    """Copy checked files into the cache, all of them or none."""
    _read(folder)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as staging:
        for name in CHECKSUMS:
            packed = folder / f"{name}.gz"
            shutil.copy(packed if packed.exists() else folder / name, staging)
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(staging, cache)
    return cache
