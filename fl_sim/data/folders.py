"""Which images a folder holds, and what each shows: one reader for datasets and for `protect`."""

import csv
import io
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fl_sim.data.pictures import SUFFIXES, counted, shown
from fl_sim.data.sources import MissingDataError
from fl_sim.errors import require

# Usual names of the parts of a dataset, in lower case.
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tests", "eval", "evaluation"),
}
WORDS = re.compile(r"[ _-]?(set|split|data|images)$")  # that may follow: test_set, train-images
NAMES = "|".join(name for own in PARTS.values() for name in own)
LOOK_ALIKE = re.compile(rf"(?:^|[^a-z])({NAMES})(?:set)?(?![a-z]{{2}})")  # x_train, trainA, test1
LEVELS = ("split", "label", "owner")
LABELS = "labels.csv"
# What lies beside images and is none: it is left out, counted and named.
SIDE_TEXT = (
    ".txt",
    ".md",
    ".rst",
    ".tex",
    ".bib",
    ".pdf",
    ".doc",
    ".docx",
    ".odt",
    ".html",
    ".htm",
)
SIDE_DATA = (".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".xml")
SIDE_TABLES = (".xls", ".xlsx", ".ods", ".names", ".lst", ".pbtxt", ".md5", ".sha1", ".sha256")
SIDE_OTHERS = (".log", ".css", ".js", ".py", ".ipynb", ".sh", ".url", ".lnk")
SIDE_SUFFIXES = (*SIDE_TEXT, *SIDE_DATA, *SIDE_TABLES, *SIDE_OTHERS)
SIDE_NAMES = ("readme", "license", "licence", "copying", "authors", "citation")
SYSTEM_NAMES = (
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "@eadir",
    "__macosx",
    "__pycache__",
    "$recycle.bin",
    "system volume information",
)


class Labelled(NamedTuple):
    """An image file and what it shows.

    Attributes:
        name: path below the folder, with forward slashes.
        path: where it is.
        label: name of its class.
        part: `train`, `val` or `test`; "" where the folder has no parts.
        owner: whose it is; "" where nobody says.
    """

    name: str
    path: Path
    label: str
    part: str = ""
    owner: str = ""


class Listing(NamedTuple):
    """The images of a folder, sorted by name.

    Attributes:
        files: the images.
        notes: on what was left out or decided.
        by_csv: whether a CSV labels them, rather than folders.
    """

    files: tuple[Labelled, ...]
    notes: tuple[str, ...]
    by_csv: bool


class Found(NamedTuple):
    """Everything below a folder, sorted by name.

    Attributes:
        images: files with the suffix of an image that can be read.
        side: files that accompany images, such as a README.
        strange: files that may be images, and cannot be read.
        hidden: names of what is hidden, and of what systems leave behind.
        folders: the folders below it.
    """

    images: list[str]
    side: list[str]
    strange: list[str]
    hidden: list[str]
    folders: list[str]


def is_beside(name: str) -> bool:
    """Return whether a file merely lies beside images, by its name: nothing reads it.

    >>> is_beside("Thumbs.db"), is_beside("notes.xml"), is_beside("labels.csv")
    (True, True, False)
    """
    found = Found([], [], [], [], [])
    return name != LABELS and (_is_hidden(name) or _kind(name, found) is found.side)


def part_of(name: str) -> str:
    """Return which part of a dataset a name stands for: `train`, `val`, `test`, or "" for none.

    >>> part_of("Training"), part_of("test_set"), part_of("cat")
    ('train', 'test', '')
    """
    bare = WORDS.sub("", name.casefold())
    return next((part for part, names in PARTS.items() if bare in names), "")


def parse_levels(text: str | None) -> tuple[str, ...] | None:
    """Return what the levels of a folder name, from the top, such as `split/label/owner`.

    Raises:
        FieldError: for anything else than `label`, with `split` and `owner` around it.
    """
    if text is None:
        return None
    levels = tuple(text.split("/"))
    fits = len(set(levels)) == len(levels) and set(levels) <= {*LEVELS} and "label" in levels
    allowed = "label, and split and owner before or after it, such as split/label/owner"
    require(fits, "folders", allowed, text)
    return levels


def read_folder(folder: Path, labels: Path | None = None, folders: str | None = None) -> Listing:
    """Return the images of a folder, labelled by their folders or by a CSV file.

    Args:
        folder: holds one folder a class; or parts such as train and test that do; or the files
            that a CSV names.
        labels: CSV with the columns `file` and `label`, and perhaps `split` and `owner`; None:
            the file labels.csv in the folder if it has these columns, else its folders.
        folders: what the levels of folders name, from the top, such as `split/label/owner`;
            None: `label`, or `split/label` where all names on top are those of parts.

    Raises:
        MissingDataError: for what is unclear or cannot be read: one line, naming the file.
        FieldError: for levels that are none.
    """
    if not folder.is_dir():
        raise MissingDataError(f"there is no folder {shown(folder)}")
    levels = parse_levels(folders)
    found = _walk(folder)
    if labels is None and levels is None and _has_columns(folder / LABELS):
        labels = folder / LABELS
    if labels is not None:
        require(levels is None, "folders", "None beside a CSV of labels", folders)
        files, notes = _by_csv(folder, labels, found)
    else:
        _refuse_strange(folder, found.strange)
        files, notes = _by_folders(folder, found, levels)
    if not files:
        raise MissingDataError(f"no images in {shown(folder)}: expected one folder a class")
    notes += [*_alike({own.label for own in files}), *_left_out(found)]
    return Listing(tuple(sorted(files)), tuple(notes), labels is not None)


def _alike(labels: Iterable[str]) -> list[str]:
    """Say which labels look the same to people, and are two classes."""
    seen: dict[str, list[str]] = {}
    for label in sorted(labels):
        seen.setdefault(unicodedata.normalize("NFKC", label).casefold().strip(), []).append(label)
    return [
        f"the labels {' and '.join(map(repr, own))} are classes of their own"
        for own in seen.values()
        if len(own) > 1
    ]


def _left_out(found: Found) -> list[str]:
    kinds = ((found.hidden, "hidden file"), (found.side, "other file"))
    return [f"{counted(names, noun)} left out" for names, noun in kinds if names]


# -- what lies below a folder


def _walk(folder: Path) -> Found:
    """List everything below a folder, and refuse links out of it and what is no plain file."""
    found = Found([], [], [], [], [])
    root, left = folder.resolve(), [("", folder)]
    while left:
        prefix, place = left.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise MissingDataError(f"{shown(place)} cannot be read: {error.strerror}") from None
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if _is_hidden(entry.name):
                found.hidden.append(name)
            elif _is_folder(entry, name, root):
                found.folders.append(name)
                left.append((f"{name}/", Path(entry.path)))
            else:
                _kind(entry.name, found).append(name)
    for names in found:
        names.sort()
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def _is_folder(entry: "os.DirEntry[str]", name: str, root: Path) -> bool:
    """Return whether an entry is a folder rather than a file that can be read.

    Raises:
        MissingDataError: for a name that is no text, a link that leads out of the folder, to
            nothing or to another folder, and for a device or the like.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise MissingDataError(f"the name of {shown(name)} in {shown(root)} is no UTF-8") from None
    if entry.is_symlink():
        check_link(Path(entry.path), name, root)
    if entry.is_dir():
        return True
    if not entry.is_file():
        raise MissingDataError(f"{shown(name)} in {shown(root)} is no file and no folder")
    return False


def check_link(path: Path, name: str, root: Path) -> None:
    """Refuse a link that leads out of `root`, to nothing, or to a folder.

    Raises:
        MissingDataError: naming the link.
    """
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        raise MissingDataError(f"{shown(name)} is a link that leads nowhere") from None
    if not target.is_relative_to(root):
        raise MissingDataError(
            f"{shown(name)} is a link out of {shown(root)}, to {shown(target)}: put the file "
            f"itself there"
        )
    if target.is_dir():
        raise MissingDataError(f"{shown(name)} is a link to a folder: its images would count twice")


def _kind(name: str, found: Found) -> list[str]:
    suffix = os.path.splitext(name)[1].lower()
    stem = name.casefold().split(".")[0]
    if suffix in SUFFIXES:
        return found.images
    is_side = suffix in SIDE_SUFFIXES or stem in SIDE_NAMES
    return found.side if is_side else found.strange


def _refuse_strange(folder: Path, names: Sequence[str]) -> None:
    if names:
        raise MissingDataError(
            f"{shown(names[0])} in {shown(folder)} cannot be read as an image; convert it or move "
            f"it away (read are {' '.join(SUFFIXES)})"
        )


# -- labels by folders


def _by_folders(
    folder: Path, found: Found, levels: tuple[str, ...] | None
) -> tuple[list[Labelled], list[str]]:
    places = {name: tuple(name.split("/")[:-1]) for name in found.images}
    for name, above in places.items():
        if not above:
            unread = LABELS in found.side  # since its first line names no columns
            hint = "begin labels.csv with file,label" if unread else "give a CSV of labels"
            raise MissingDataError(
                f"image without a label: {shown(name)} lies beside the class folders of "
                f"{shown(folder)}; move it into one, or {hint}"
            )
    _refuse_empty(folder, found)
    levels = levels or _guessed(folder, places.values())
    files = [_labelled(folder, name, above, levels) for name, above in places.items()]
    nested = [name for name, above in places.items() if len(above) > len(levels)]
    notes = [f"{counted(nested, 'image')} in folders below those of the classes"] if nested else []
    return files, notes


def _refuse_empty(folder: Path, found: Found) -> None:
    """Refuse a folder on top, or in a part, that holds no image: it would be a class of none."""
    filled = {"/".join(name.split("/")[:depth]) for name in found.images for depth in (1, 2)}
    for own in found.folders:
        above = own.split("/")
        checked = len(above) == 1 or (len(above) == 2 and part_of(above[0]))
        if checked and own not in filled:
            raise MissingDataError(
                f"label without images: the folder {shown(folder / own)} holds none"
            )


def _guessed(folder: Path, places: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the levels of folders whose names say what they are, or refuse what is unclear."""
    above = set(places)
    tops = sorted({own[0] for own in above})
    parts = [top for top in tops if part_of(top)]
    if not parts:
        inner = {own[1] if len(own) > 1 else "" for own in above}
        if all(part_of(name) for name in inner) and inner:
            _unclear(
                folder, f"the parts {', '.join(sorted(inner))} below the classes", "label/split"
            )
        _refuse_look_alikes(folder, above)
        return ("label",)
    others = [top for top in tops if not part_of(top)]
    if others:
        _unclear(folder, f"{parts[0]}, which may be a part or a class, beside {others[0]}", "label")
    kinds = [part_of(top) for top in parts]
    if len(set(kinds)) < len(kinds):
        _unclear(folder, f"{' and '.join(parts)}, of which two mean the same part", "label")
    bare = sorted(own[0] for own in above if len(own) == 1)
    if bare:
        _unclear(folder, f"images without class folders in the part {bare[0]}", "label")
    return ("split", "label")


def _refuse_look_alikes(folder: Path, above: set[tuple[str, ...]]) -> None:
    """Refuse folders on top that are hardly classes: x_train beside x_test, or one with all."""
    tops = sorted({own[0] for own in above})
    hints = [LOOK_ALIKE.search(top.casefold()) for top in tops]
    if all(hints) and len({part_of(own[1]) for own in hints if own}) > 1:
        _unclear(folder, f"{' and '.join(tops[:2])}, which may be parts or classes", "label")
    inner = [{own[1] for own in above if own[0] == top and len(own) > 1} for top in tops]
    nested = all(len(own) > 1 for own in above)
    if nested and len(inner[0]) > 1 and all(own == inner[0] for own in inner):
        names = ", ".join(sorted(inner[0])[:2])
        _unclear(folder, f"the same folders ({names}) in each folder on top", "label")


def _unclear(folder: Path, what: str, hint: str) -> None:
    raise MissingDataError(
        f"unclear: {shown(folder)} has {shown(what)}; rename a folder, or say what the levels are "
        f"(folders={hint})"
    )


def _labelled(folder: Path, name: str, above: tuple[str, ...], levels: tuple[str, ...]) -> Labelled:
    if len(above) < len(levels):
        raise MissingDataError(
            f"{shown(name)} in {shown(folder)} lies in {len(above)} folders; folders="
            f"{'/'.join(levels)} needs {len(levels)}"
        )
    said = dict(zip(levels, above, strict=False))
    part = part_of(said.get("split", ""))
    if "split" in said and not part:
        known = ", ".join(word for names in PARTS.values() for word in names)
        raise MissingDataError(
            f"{shown(folder)}: {shown(said['split'])} is no part of a dataset; expected {known}"
        )
    return Labelled(name, folder / name, said["label"], part, said.get("owner", ""))


# -- labels by a CSV file


def _has_columns(labels: Path) -> bool:
    """Return whether there is a CSV with the columns `file` and `label`."""
    if not labels.is_file():
        return False
    head = _text(labels).split("\n", 1)[0]
    return {"file", "label"} <= {*_cells(head, _delimiter(head))}


def _text(labels: Path) -> str:
    """Return the text of a CSV: UTF-8, or UTF-16 with its mark; nothing is guessed."""
    try:
        content = labels.read_bytes()
        is_wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        return content.decode("utf-16" if is_wide else "utf-8-sig")
    except OSError as error:
        cause = str(error.strerror)
    except UnicodeDecodeError as error:
        cause = f"byte {error.start} is no {error.encoding.upper()}; save it as UTF-8"
    raise MissingDataError(f"the labels {shown(labels)} cannot be read: {cause}")


def _delimiter(head: str) -> str:
    """Return what stands between the names in the first line: a comma, semicolon or tab."""
    return next((c for c in ";\t" if c in head and "," not in head), ",")


def _cells(line: str, delimiter: str) -> list[str]:
    return [
        cell.strip().strip('"').strip().casefold() for cell in line.strip("\r\n").split(delimiter)
    ]


def _by_csv(folder: Path, labels: Path, found: Found) -> tuple[list[Labelled], list[str]]:
    rows, extra = _rows(labels)
    root = folder.resolve()
    files: dict[str, Labelled] = {}
    for line, row in rows:
        own = _from_row(folder, root, f"{shown(labels)}, line {line}", row)
        if own.name in files:
            raise MissingDataError(
                f"{shown(labels)}, line {line}: {shown(own.name)} has a label already"
            )
        files[own.name] = own
    unnamed = [name for name in (*found.images, *found.strange) if name not in files]
    if unnamed:
        raise MissingDataError(
            f"image without a label: {counted(unnamed, 'file')} in {shown(folder)} that "
            f"{shown(labels)} does not name"
        )
    for names in found:
        names[:] = [name for name in names if name not in files]
    if labels.resolve().is_relative_to(root):
        own_name = labels.resolve().relative_to(root).as_posix()
        found.side[:] = [name for name in found.side if name != own_name]
    return list(files.values()), [f"columns not read: {', '.join(extra)}"] if extra else []


def _rows(labels: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Return the rows of a CSV with the lines they end on, and the columns that are not read.

    Raises:
        MissingDataError: naming the line.
    """
    text = _text(labels)
    delimiter = _delimiter(text.split("\n", 1)[0])
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[tuple[int, dict[str, str]]] = []
    names: list[str] = []
    try:
        names = [name.strip().casefold() for name in next(reader, [])]
        twice = len(set(names)) < len(names)
        if twice or not {"file", "label"} <= {*names}:
            raise MissingDataError(f"{shown(labels)}, line 1: expected the columns file and label")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise MissingDataError(
                    f"{shown(labels)}, line {reader.line_num}: expected {len(names)} fields, the "
                    f"columns file and label among them; got {len(cells)}"
                )
            values = [cell.strip() for cell in cells]
            rows.append((reader.line_num, dict(zip(names, values, strict=True))))
    except csv.Error as error:
        raise MissingDataError(
            f"the labels {shown(labels)} cannot be read: line {reader.line_num}: {error}"
        ) from None
    return rows, [name for name in names if name not in ("file", *LEVELS)]


def _from_row(folder: Path, root: Path, where: str, row: dict[str, str]) -> Labelled:
    name, label = row["file"], row["label"]
    if not name or not label:
        raise MissingDataError(f"{where}: expected the columns file and label")
    path = Path(os.path.normpath(folder / name))
    if "\0" in name or not path.is_relative_to(os.path.normpath(folder)):
        raise MissingDataError(f"{where}: {shown(name)} is not below {shown(folder)}")
    clean = path.relative_to(os.path.normpath(folder)).as_posix()
    _check_file(root / clean, clean, root, where)
    for column in ("split", "owner"):
        if row.get(column) == "":
            raise MissingDataError(f"{where}: the column {column} is empty")
    part = part_of(row.get("split", ""))
    if row.get("split") and not part:
        raise MissingDataError(f"{where}: {shown(row['split'])} is no part such as train or test")
    return Labelled(clean, folder / clean, label, part, row.get("owner", ""))


def _check_file(path: Path, name: str, root: Path, where: str) -> None:
    """Refuse a file that is not there, is none, or is reached through a link out of the folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        mode = 0
    if path.is_symlink() or mode:
        inside = path.resolve().is_relative_to(root)
        if not inside:
            raise MissingDataError(
                f"{where}: {shown(name)} is a link: it is not below {shown(root)}"
            )
    if not stat.S_ISREG(mode):
        raise MissingDataError(f"label without image: {where}: no file {shown(path)}")
