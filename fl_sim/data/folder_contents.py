"""The files below a folder, sorted into images, other files and unreadable ones."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fl_sim.data.image_files import SUFFIXES, escape
from fl_sim.data.sources import MissingDataError

LABELS = "labels.csv"
# Files that often accompany images: they are left out, and a note counts them.
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex", ".bib", ".pdf", ".doc", ".docx", ".odt", ".xml")
DATA_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".cfg")
TABLE_SUFFIXES = (".xls", ".xlsx", ".ods", ".names", ".lst", ".pbtxt", ".md5", ".sha1", ".sha256")
CODE_SUFFIXES = (".log", ".html", ".htm", ".css", ".js", ".py", ".ipynb", ".sh", ".url", ".lnk")
OTHER_SUFFIXES = (*TEXT_SUFFIXES, *DATA_SUFFIXES, *TABLE_SUFFIXES, *CODE_SUFFIXES)
OTHER_NAMES = ("readme", "license", "licence", "copying", "authors", "citation")
SYSTEM_NAMES = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "__macosx")
SYSTEM_FOLDERS = ("__pycache__", "$recycle.bin", "system volume information")


class LabelledImage(NamedTuple):
    """An image file with its label.

    Attributes:
        name: Path below the folder, with forward slashes.
        path: Path of the file.
        label: Name of its class.
        split: `train`, `val` or `test`, or an empty string if the folder has no splits.
        owner: Name of the owner, or an empty string if unknown.
    """

    name: str
    path: Path
    label: str
    split: str = ""
    owner: str = ""


class FolderContents(NamedTuple):
    """Everything below a folder, sorted by name.

    Attributes:
        images: Files with a suffix of images that can be read.
        other: Files that accompany images, such as a README.
        unreadable: Files that may be images but cannot be read.
        hidden: Hidden files and those that operating systems leave behind.
        folders: Folders.
    """

    images: list[str]
    other: list[str]
    unreadable: list[str]
    hidden: list[str]
    folders: list[str]


def is_ignored(name: str) -> bool:
    """Return whether a file is left out by its name: nothing reads it.

    >>> is_ignored("Thumbs.db"), is_ignored("notes.xml"), is_ignored("labels.csv")
    (True, True, False)
    """
    contents = FolderContents([], [], [], [], [])
    return name != LABELS and (_is_hidden(name) or _choose_list(name, contents) is contents.other)


def list_folder(folder: Path) -> FolderContents:
    """Return everything below a folder; refuse links out of it and special files."""
    contents = FolderContents([], [], [], [], [])
    root, pending = folder.resolve(), [("", folder)]
    while pending:
        prefix, path = pending.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise MissingDataError(f"{escape(path)} cannot be read: {error.strerror}") from None
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if _is_hidden(entry.name):
                contents.hidden.append(name)
            elif _is_folder(entry, name, root):
                contents.folders.append(name)
                pending.append((f"{name}/", Path(entry.path)))
            else:
                _choose_list(entry.name, contents).append(name)
    for names in contents:
        names.sort()
    return contents


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in (*SYSTEM_NAMES, *SYSTEM_FOLDERS)


def _is_folder(entry: "os.DirEntry[str]", name: str, root: Path) -> bool:
    """Return whether an entry is a folder rather than a regular file.

    Raises:
        MissingDataError: If its name is no text, it is a link out of the folder, to nothing or
            to another folder, or it is a special file such as a device.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise MissingDataError(
            f"the name of {escape(name)} in {escape(root)} is no UTF-8"
        ) from None
    if entry.is_symlink():
        _check_link(Path(entry.path), name, root)
    if entry.is_dir():
        return True
    if not entry.is_file():
        raise MissingDataError(f"{escape(name)} in {escape(root)} is no file and no folder")
    return False


def _check_link(path: Path, name: str, root: Path) -> None:
    """Refuse a link that leads out of `root`, to nothing, or to a folder."""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        raise MissingDataError(f"{escape(name)} is a link that leads nowhere") from None
    if not target.is_relative_to(root):
        raise MissingDataError(
            f"{escape(name)} is a link out of {escape(root)}, to {escape(target)}: put the file "
            f"itself there"
        )
    if target.is_dir():
        raise MissingDataError(
            f"{escape(name)} is a link to a folder: its images would count twice"
        )


def _choose_list(name: str, contents: FolderContents) -> list[str]:
    suffix = os.path.splitext(name)[1].lower()
    stem = name.casefold().split(".")[0]
    if suffix in SUFFIXES:
        return contents.images
    is_other = suffix in OTHER_SUFFIXES or stem in OTHER_NAMES
    return contents.other if is_other else contents.unreadable


def refuse_unreadable(folder: Path, names: Sequence[str]) -> None:
    """Refuse files that may be images and cannot be read, naming the first."""
    if names:
        raise MissingDataError(
            f"{escape(names[0])} in {escape(folder)} cannot be read as an image; convert it or "
            f"move it away (read are {' '.join(SUFFIXES)})"
        )
