"""A folder of images, with one folder per class or a file of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, final

import torch
from jaxtyping import Int64
from torch import Tensor

from fl_sim.contracts import Dataset
from fl_sim.data.fingerprint import hash_files, list_files
from fl_sim.data.folder_contents import LabelledImage, is_ignored
from fl_sim.data.folders import read_folder
from fl_sim.data.image_files import Batch, MixedSizesError, escape, read_batch, summarise
from fl_sim.data.sources import MissingDataError, ReadOptions, Source
from fl_sim.data.splits import choose_test_split, split_stratified


@final
class ImageFolder(Source):
    """Your own image files in data.path, one folder per class, or labelled by a file labels.csv.

    Top folders such as `train`, `val` and `test` (or Training, valid, eval) that hold the class
    folders are splits; `val` is tested on if there is no `test`. Without them, a fixed random
    fifth of each class is set apart for testing. The file labels.csv has the columns `file` and
    `label`, and perhaps `split` and `owner`.

    Source: this project.
    """

    name: ClassVar[str] = "image_folder"

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the images of the folder, which have to be of one size."""
        return self.read(path, ReadOptions())

    def fingerprint(self, path: Path | None) -> str:
        """Return a hash of the images and of labels.csv; other files do not change it."""
        if path is None or not path.is_dir():
            return super().fingerprint(path)
        try:
            return hash_files(path, (f for f in list_files(path) if not is_ignored(f.name)))
        except OSError as error:
            raise MissingDataError(f"data.path: {path} cannot be read: {error.strerror}") from None

    def read(self, path: Path | None, options: ReadOptions) -> Dataset:
        """Return the images of the folder, scaled and labelled by `options`."""
        if path is None:
            raise MissingDataError("data.path: image_folder needs a folder of class folders")
        listing = read_folder(path, folders=options.folders)
        used, count, notes = _choose_splits(path, listing.files)
        classes = sorted({image.label for image in used})
        batch = _read_pixels(used, options.side)
        labels = [image.label for image in used]
        train, test = (
            split_stratified(labels, self.name)
            if count is None
            else (list(range(count)), list(range(count, len(used))))
        )
        trained, tested = [used[i] for i in train], [used[i] for i in test]
        owners = sorted({image.owner for image in trained} - {""})
        hashes = dict(zip((image.name for image in used), batch.hashes, strict=True))
        notes += [*batch.notes, *_note_duplicates(trained, tested, hashes), *listing.notes]
        return Dataset(
            name=self.name,
            train_images=batch.pixels[train],
            train_labels=_encode([image.label for image in trained], classes),
            test_images=batch.pixels[test],
            test_labels=_encode([image.label for image in tested], classes),
            class_names=tuple(classes),
            origin=str(path),
            notes=tuple(notes),
            train_owners=_encode([image.owner for image in trained], owners) if owners else None,
            owner_names=tuple(owners),
            test_owners=_encode([image.owner for image in tested], owners) if owners else None,
        )


def _choose_splits(
    path: Path, files: Sequence[LabelledImage]
) -> tuple[list[LabelledImage], int | None, list[str]]:
    """Return the images used, training images first, their number, and notes for the user.

    The number is None if the folder has no splits.
    """
    by_split: dict[str, list[LabelledImage]] = {}
    for image in files:
        by_split.setdefault(image.split, []).append(image)
    if set(by_split) == {""} or set(by_split) == {"train"}:
        return list(files), None, []
    wanted = "a split to test on" if "train" in by_split else "a split to train on"
    split, note = choose_test_split(set(by_split), f"data.path: {escape(path)} needs {wanted}")
    train, test = by_split["train"], by_split[split]
    notes = [note] if note else []
    unseen = {image.label for image in test} - {image.label for image in train}
    if len(unseen) == len({image.label for image in test}):
        raise MissingDataError(
            f"data.path: no label of the {split} split in {escape(path)} "
            f"({escape(min(unseen))}, ...) is one of the train split"
        )
    if unseen:
        notes.append(f"{summarise(sorted(unseen), 'label')} without a training image")
    return [*train, *test], len(train), notes


def _read_pixels(files: Sequence[LabelledImage], side: int | None) -> Batch:
    paths = [image.path for image in files]
    try:
        return read_batch(paths, [str(path) for path in paths], paths[0].parent, side)
    except MixedSizesError as error:
        raise MissingDataError(f"{error}; or set data.side, such as 64") from None


def _note_duplicates(
    train: Sequence[LabelledImage], test: Sequence[LabelledImage], hashes: Mapping[str, bytes]
) -> list[str]:
    """Return notes on files that occur under two labels, or in both splits."""
    labels: dict[bytes, set[str]] = {}
    for image in (*train, *test):
        labels.setdefault(hashes[image.name], set()).add(image.label)
    ambiguous = [image.name for image in (*train, *test) if len(labels[hashes[image.name]]) > 1]
    known = {hashes[image.name] for image in train}
    leaked = [image.name for image in test if hashes[image.name] in known]
    kinds = (
        (ambiguous, "file", "with the same content under two labels"),
        (leaked, "test image", "also trained on"),
    )
    return [f"{summarise(names, noun)} {problem}" for names, noun, problem in kinds if names]


def _encode(names: Sequence[str], known: Sequence[str]) -> Int64[Tensor, " n"]:
    """Return the position of each name among the known ones, or -1."""
    codes = {name: code for code, name in enumerate(known)}
    return torch.tensor([codes.get(name, -1) for name in names], dtype=torch.int64)
