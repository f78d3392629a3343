"""Images and labels in one .npz file, such as those of MedMNIST."""

from pathlib import Path
from typing import ClassVar, final

import torch

from fl_sim.contracts import Dataset
from fl_sim.data.arrays import NpzFile, Split
from fl_sim.data.image_files import escape
from fl_sim.data.scaling import resize
from fl_sim.data.sources import MissingDataError, Source
from fl_sim.data.splits import split_stratified


@final
class Npz(Source):
    """Your own images from the file data.path, in the layout of MedMNIST's files.

    The file holds `train_images`, `train_labels`, `test_images` and `test_labels`: uint8 images
    as [n, h, w], [n, h, w, c] or [n, c, h, w], and whole numbers from 0, one per image. Splits may
    have other usual names, and arrays the names `x_train` and `y_train`. A validation split is not
    read. Of `images` and `labels`, a fixed random fifth of each class is set apart for testing.

    Source: this project; MedMNIST: Yang et al. (2023), https://doi.org/10.1038/s41597-022-01721-8.
    """

    name: ClassVar[str] = "npz"

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the dataset; nothing is unpickled, and no array is read without need."""
        return self.load_scaled(path, None)

    def load_scaled(self, path: Path | None, side: int | None) -> Dataset:
        """Return the dataset; if it is scaled, the splits may differ in size."""
        if path is None or not path.is_file():
            got = None if path is None else escape(path)
            raise MissingDataError(f"data.path: expected an .npz file of your own; got {got}")
        train, test, notes = _read_splits(NpzFile(path), side)
        num_classes = int(max(train.labels.max(), test.labels.max())) + 1
        missing = num_classes - len(train.labels.unique())
        if missing:
            notes.append(f"{missing} of {num_classes} classes without a training image")
        return Dataset(
            name=self.name,
            train_images=train.images,
            train_labels=train.labels,
            test_images=test.images,
            test_labels=test.labels,
            class_names=tuple(str(label) for label in range(num_classes)),
            origin=str(path),
            notes=tuple(notes),
        )


def _read_splits(arrays: NpzFile, side: int | None) -> tuple[Split, Split, list[str]]:
    """Return the images to train and to test on, and notes for the user."""
    pairs = arrays.by_split()
    used = [pairs[part] for part in ("train", "test") if part in pairs] or list(pairs.values())
    unread = [pair.images for pair in arrays.pairs if pair not in used]
    notes = [f"{', '.join(unread)} not read"] if unread else []
    if set(pairs) == {""}:
        (whole,) = _scale(arrays.read([pairs[""]]), side)
        _refuse_empty(arrays.path, whole)
        train, test = split_stratified([str(label) for label in whole.labels.tolist()], "npz")
        notes.append("a fifth of each class set apart for testing")
        return _select_rows(whole, train), _select_rows(whole, test), notes
    for part in ("train", "test"):
        if part not in pairs:
            hint = f"; rename {pairs['val'].images} to test on them" if "val" in pairs else ""
            raise MissingDataError(f"no {part}_images in {escape(arrays.path)}{hint}")
    first, second = _scale(arrays.read([pairs["train"], pairs["test"]]), side)
    for split in (first, second):
        _refuse_empty(arrays.path, split)
    if first.images.shape[1:] != second.images.shape[1:]:
        sizes = f"{tuple(first.images.shape[1:])} and {tuple(second.images.shape[1:])}"
        names = f"{first.pair.images} and {second.pair.images}"
        hint = "; set data.side, such as 64" if side is None else ""
        raise MissingDataError(f"{names} in {escape(arrays.path)} differ in size: {sizes}{hint}")
    return first, second, notes


def _scale(splits: list[Split], side: int | None) -> list[Split]:
    return [split._replace(images=resize(split.images, side)) for split in splits]


def _refuse_empty(path: Path, split: Split) -> None:
    if not len(split.labels):
        raise MissingDataError(f"no {split.pair.images} in {escape(path)}: the array is empty")


def _select_rows(split: Split, rows: list[int]) -> Split:
    chosen = torch.tensor(rows, dtype=torch.int64)
    return split._replace(images=split.images[chosen], labels=split.labels[chosen])
