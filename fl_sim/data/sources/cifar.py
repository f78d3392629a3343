"""CIFAR-10 and CIFAR-100, read from the published files."""

import tarfile
import tempfile
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.contracts import Dataset
from fl_sim.core.cache import cache_folder
from fl_sim.data.download import Listen, PublishedFile, download
from fl_sim.data.sources import MissingDataError, Source

ADDRESS = "https://www.cs.toronto.edu/~kriz/{}"
ARCHIVES = {  # names and MD5 sums of the published archives, as in torchvision
    "cifar10": ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    "cifar100": ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
}


def _fetch(name: str, folder: str, listen: Listen) -> None:
    """Fetch the archive into the cache, and unpack it there."""
    archive, md5 = ARCHIVES[name]
    root = cache_folder() / "data" / name
    if (root / folder).exists():
        return
    place = root / archive
    download(PublishedFile(ADDRESS.format(archive), archive, "md5", md5), place, listen)
    with tempfile.TemporaryDirectory(dir=root) as staging:
        with tarfile.open(place) as content:
            content.extractall(staging, filter="data")
        (Path(staging) / folder).rename(root / folder)
    place.unlink()


def _load(name: str, reader: str, folder: str, path: Path | None) -> Dataset:
    """Return a dataset from local files, which torchvision checks against published checksums.

    That check makes its unpickling safe: only the published bytes are ever read.
    """
    from fl_sim.core.vision import torchvision

    root = path or cache_folder() / "data" / name
    open_split: Any = getattr(torchvision.datasets, reader)
    try:
        train, test = (
            open_split(str(root), train=train, download=False) for train in (True, False)
        )
    except RuntimeError as error:
        raise MissingDataError(
            f"data.dataset: {name} was not found or is damaged: run `fl-sim data fetch {name}`; or "
            f"unpack {ADDRESS.format(ARCHIVES[name][0])} so that {root / folder} exists, or set "
            f"data.path ({error})"
        ) from None
    (train_images, train_labels), (test_images, test_labels) = _to_tensors(train), _to_tensors(test)
    return Dataset(
        name=name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=tuple(train.classes),
        origin=str(root),
    )


def _to_tensors(split: Any) -> tuple[UInt8[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(split.targets)


@final
class Cifar10(Source):
    """60,000 colour photographs, 32 x 32, ten classes; `fl-sim data fetch` fetches them.

    Source: Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html, through torchvision.
    """

    name: ClassVar[str] = "cifar10"
    is_published: ClassVar[bool] = True

    def fetch(self, listen: Listen) -> None:
        """Fetch the files into the cache."""
        _fetch(self.name, "cifar-10-batches-py", listen)

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the dataset from `path`, or from the cache."""
        return _load(self.name, "CIFAR10", "cifar-10-batches-py", path)


@final
class Cifar100(Source):
    """60,000 colour photographs, 32 x 32, a hundred classes; `fl-sim data fetch` fetches them.

    Source: Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html, through torchvision.
    """

    name: ClassVar[str] = "cifar100"
    is_published: ClassVar[bool] = True

    def fetch(self, listen: Listen) -> None:
        """Fetch the files into the cache."""
        _fetch(self.name, "cifar-100-python", listen)

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the dataset from `path`, or from the cache."""
        return _load(self.name, "CIFAR100", "cifar-100-python", path)
