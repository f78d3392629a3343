"""The labelled images of a folder: one reader for datasets and for `fl-sim protect`."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fl_sim.core.errors import require
from fl_sim.data.class_folders import label_by_folders, parse_levels
from fl_sim.data.folder_contents import (
    LABELS,
    FolderContents,
    LabelledImage,
    list_folder,
    refuse_unreadable,
)
from fl_sim.data.image_files import escape, summarise
from fl_sim.data.label_csv import has_columns, label_by_csv
from fl_sim.data.sources import MissingDataError


class Listing(NamedTuple):
    """The images of a folder, sorted by name.

    Attributes:
        files: The images.
        notes: Notes for the user, such as on files that are left out.
        by_csv: True if a CSV labels them, rather than folders.
    """

    files: tuple[LabelledImage, ...]
    notes: tuple[str, ...]
    by_csv: bool


def read_folder(folder: Path, labels: Path | None = None, folders: str | None = None) -> Listing:
    """Return the images of a folder, labelled by their folders or by a CSV file.

    Args:
        folder: Folder with one folder per class, with splits such as train and test that hold
            these, or with the files that a CSV names.
        labels: CSV with the columns `file` and `label`, and perhaps `split` and `owner`. If None,
            labels.csv in the folder is used if it has these columns, and the folders otherwise.
        folders: Levels of folders, from the top, such as `split/label/owner`. If None, they are
            `split/label` if all top folders are named as splits, and `label` otherwise.

    Raises:
        MissingDataError: If a file is ambiguous or cannot be read; the message names it.
        FieldError: If `folders` is invalid.
    """
    if not folder.is_dir():
        raise MissingDataError(f"there is no folder {escape(folder)}")
    levels = parse_levels(folders)
    contents = list_folder(folder)
    if labels is None and levels is None and has_columns(folder / LABELS):
        labels = folder / LABELS
    if labels is not None:
        require(levels is None, "folders", "None beside a CSV of labels", folders)
        files, notes = label_by_csv(folder, labels, contents)
    else:
        refuse_unreadable(folder, contents.unreadable)
        files, notes = label_by_folders(folder, contents, levels)
    if not files:
        raise MissingDataError(f"no images in {escape(folder)}: expected one folder per class")
    notes += [*_note_similar_labels({image.label for image in files}), *_note_left_out(contents)]
    return Listing(tuple(sorted(files)), tuple(notes), labels is not None)


def _note_similar_labels(labels: Iterable[str]) -> list[str]:
    """Return a note for each group of labels that differ in case or Unicode form alone."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        groups.setdefault(unicodedata.normalize("NFKC", label).casefold().strip(), []).append(label)
    return [
        f"the labels {' and '.join(map(repr, group))} are classes of their own"
        for group in groups.values()
        if len(group) > 1
    ]


def _note_left_out(contents: FolderContents) -> list[str]:
    kinds = ((contents.hidden, "hidden file"), (contents.other, "other file"))
    return [f"{summarise(names, noun)} left out" for names, noun in kinds if names]
