"""A folder of images, one folder a class."""

from pathlib import Path
from typing import ClassVar, final

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from fl_sim.contracts import Dataset
from fl_sim.data.files import Labelled, decode, labelled_files, stacked
from fl_sim.data.sources import MissingDataError, Source
from fl_sim.seeding import generator

TEST_SHARE = 0.2


@final
class ImageFolder(Source):
    """Your own image files in data.path, one folder a class, all of one size.

    With folders `train` and `test`, each holding the class folders, those are the two parts;
    otherwise a fixed random fifth of the images is set apart for testing.

    Source: this project.
    """

    name: ClassVar[str] = "image_folder"

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return what the folder holds."""
        if path is None:
            raise MissingDataError("data.path: image_folder needs a folder of class folders")
        parts = [path / part for part in ("train", "test") if (path / part).is_dir()]
        if len(parts) == 2:
            train, test = (labelled_files(part) for part in parts)
        else:
            train, test = _cut(labelled_files(path))
        classes = sorted({own.label for own in (*train, *test)})
        pixels = _read([*train, *test])
        return Dataset(
            name=self.name,
            train_images=pixels[: len(train)],
            train_labels=_numbers(train, classes),
            test_images=pixels[len(train) :],
            test_labels=_numbers(test, classes),
            class_names=tuple(classes),
            origin=str(path),
        )


def _cut(files: list[Labelled]) -> tuple[list[Labelled], list[Labelled]]:
    if len(files) < 2:
        raise MissingDataError("data.path: image_folder needs at least two images")
    order = torch.randperm(len(files), generator=generator(0, "image_folder", "split")).tolist()
    count = max(1, round(TEST_SHARE * len(files)))
    train, test = sorted(order[count:]), sorted(order[:count])
    return [files[i] for i in train], [files[i] for i in test]


def _read(files: list[Labelled]) -> UInt8[Tensor, "n c h w"]:
    pictures = [decode(own.path.read_bytes(), str(own.path)) for own in files]
    return stacked(pictures, [str(own.path) for own in files])


def _numbers(files: list[Labelled], classes: list[str]) -> Int64[Tensor, " n"]:
    return torch.tensor([classes.index(own.label) for own in files])
