"""Arrays in one .npz file, MedMNIST's among them."""

from pathlib import Path
from typing import ClassVar, final

from fl_sim.contracts import Dataset
from fl_sim.data.files import Split, read_npz
from fl_sim.data.sources import MissingDataError, Source


@final
class Npz(Source):
    """Your own images from the file data.path, in the layout of MedMNIST's files.

    The file holds `train_images`, `train_labels`, `test_images` and `test_labels`: uint8 images
    as [n h w], [n h w c] or [n c h w], and whole numbers from 0, one an image. A validation split
    is not read.

    Source: this project; MedMNIST: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8.
    """

    name: ClassVar[str] = "npz"

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return what the file holds; nothing is unpickled."""
        if path is None or not path.is_file():
            raise MissingDataError(f"data.path: expected an .npz file of your own; got {path}")
        splits = {split.prefix: split for split in read_npz(path)[1]}
        train, test = _part(path, splits, "train_"), _part(path, splits, "test_")
        if train.images.shape[1:] != test.images.shape[1:]:
            raise MissingDataError(f"train_images and test_images in {path} differ in size")
        num_classes = int(max(train.labels.max(), test.labels.max())) + 1
        return Dataset(
            name=self.name,
            train_images=train.images,
            train_labels=train.labels,
            test_images=test.images,
            test_labels=test.labels,
            class_names=tuple(str(label) for label in range(num_classes)),
            origin=str(path),
        )


def _part(path: Path, splits: dict[str, Split], prefix: str) -> Split:
    if prefix not in splits or len(splits[prefix].labels) == 0:
        raise MissingDataError(f"no {prefix}images in {path}")
    return splits[prefix]
