"""A folder of images, one folder a class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, final

import torch
from jaxtyping import Int64
from torch import Tensor

from fl_sim.contracts import Dataset
from fl_sim.data.fingerprint import content_hash, files_below
from fl_sim.data.folder_contents import Labelled, is_beside
from fl_sim.data.folders import read_folder
from fl_sim.data.pictures import Batch, MixedSizesError, counted, read_batch, shown
from fl_sim.data.sources import MissingDataError, Reading, Source
from fl_sim.data.splits import split_stratified, testing_part


@final
class ImageFolder(Source):
    """Your own image files in data.path, one folder a class, or named by a file labels.csv.

    Folders on top such as `train`, `val` and `test` (or Training, valid, eval) that hold the class
    folders are the parts; the validation part is tested on where there is no test. Otherwise a
    fixed random fifth of each class is set apart for testing. The file labels.csv has the columns
    `file` and `label`, and perhaps `split` and `owner`.

    Source: this project.
    """

    name: ClassVar[str] = "image_folder"

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return what the folder holds, where all images are of one size."""
        return self.read(path, Reading())

    def fingerprint(self, path: Path | None) -> str:
        """Return a hash of the images and of labels.csv; what lies beside them changes nothing."""
        if path is None or not path.is_dir():
            return super().fingerprint(path)
        try:
            used = (own for own in files_below(path) if not is_beside(own.name))
            return content_hash(path, used)
        except OSError as error:
            raise MissingDataError(f"data.path: {path} cannot be read: {error.strerror}") from None

    def read(self, path: Path | None, reading: Reading) -> Dataset:
        """Return what the folder holds, scaled and labelled as `reading` says."""
        if path is None:
            raise MissingDataError("data.path: image_folder needs a folder of class folders")
        listing = read_folder(path, folders=reading.folders)
        used, count, notes = _parts(path, listing.files)
        classes = sorted({own.label for own in used})
        batch = _pixels(used, reading.side)
        labels = [own.label for own in used]
        train, test = (
            split_stratified(labels, self.name)
            if count is None
            else (list(range(count)), list(range(count, len(used))))
        )
        trained, tested = [used[i] for i in train], [used[i] for i in test]
        owners = sorted({own.owner for own in trained} - {""})
        hashes = dict(zip((own.name for own in used), batch.hashes, strict=True))
        notes += [*batch.notes, *_repeats(trained, tested, hashes), *listing.notes]
        return Dataset(
            name=self.name,
            train_images=batch.pixels[train],
            train_labels=_numbers([own.label for own in trained], classes),
            test_images=batch.pixels[test],
            test_labels=_numbers([own.label for own in tested], classes),
            class_names=tuple(classes),
            origin=str(path),
            notes=tuple(notes),
            train_owners=_numbers([own.owner for own in trained], owners) if owners else None,
            owner_names=tuple(owners),
        )


def _parts(path: Path, files: Sequence[Labelled]) -> tuple[list[Labelled], int | None, list[str]]:
    """Return the images that are used, how many of them come first and are trained on (None: the
    folder does not say), and what has to be said of that.
    """
    by_part: dict[str, list[Labelled]] = {}
    for own in files:
        by_part.setdefault(own.part, []).append(own)
    if set(by_part) == {""} or set(by_part) == {"train"}:
        return list(files), None, []
    wanted = "a part to test on" if "train" in by_part else "a part to train on"
    part, note = testing_part(set(by_part), f"data.path: {shown(path)} needs {wanted}")
    notes = [note] if note else []
    unseen = {own.label for own in by_part[part]} - {own.label for own in by_part["train"]}
    if len(unseen) == len({own.label for own in by_part[part]}):
        raise MissingDataError(
            f"data.path: no label of the part {part} in {shown(path)} ({shown(min(unseen))}, ...) "
            f"is one of the part train"
        )
    if unseen:
        notes.append(f"{counted(sorted(unseen), 'label')} without a training image")
    return [*by_part["train"], *by_part[part]], len(by_part["train"]), notes


def _pixels(files: Sequence[Labelled], side: int | None) -> Batch:
    paths = [own.path for own in files]
    try:
        return read_batch(paths, [str(path) for path in paths], side)
    except MixedSizesError as error:
        raise MissingDataError(f"{error}; or set data.side, such as 64") from None


def _repeats(
    train: Sequence[Labelled], test: Sequence[Labelled], hashes: Mapping[str, bytes]
) -> list[str]:
    """Say which files are there twice under two labels, or in both parts."""
    labels: dict[bytes, set[str]] = {}
    for own in (*train, *test):
        labels.setdefault(hashes[own.name], set()).add(own.label)
    torn = [own.name for own in (*train, *test) if len(labels[hashes[own.name]]) > 1]
    known = {hashes[own.name] for own in train}
    seen = [own.name for own in test if hashes[own.name] in known]
    notes = [f"{counted(torn, 'file')} with the same content under two labels"] if torn else []
    return notes + ([f"{counted(seen, 'test image')} also trained on"] if seen else [])


def _numbers(names: Sequence[str], known: Sequence[str]) -> Int64[Tensor, " n"]:
    places = {name: place for place, name in enumerate(known)}
    return torch.tensor([places[name] for name in names], dtype=torch.int64)
