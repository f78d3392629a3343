"""Labels of images by a CSV file with the columns file, label, and perhaps split and owner."""

import csv
import io
import os
import stat
from pathlib import Path

from fl_sim.data.folder_contents import FolderContents, LabelledImage
from fl_sim.data.image_files import escape, summarise
from fl_sim.data.sources import MissingDataError
from fl_sim.data.splits import parse_split

COLUMNS = ("file", "label", "split", "owner")


def has_columns(labels: Path) -> bool:
    """Return whether the file exists and has the columns `file` and `label`."""
    if not labels.is_file():
        return False
    head = _read_text(labels).split("\n", 1)[0]
    return {"file", "label"} <= {*_split_cells(head, _find_delimiter(head))}


def _read_text(labels: Path) -> str:
    """Return the text of a CSV in UTF-8, or in UTF-16 with a byte order mark."""
    try:
        content = labels.read_bytes()
        is_wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        return content.decode("utf-16" if is_wide else "utf-8-sig")
    except OSError as error:
        cause = str(error.strerror)
    except UnicodeDecodeError as error:
        cause = f"byte {error.start} is no {error.encoding.upper()}; save it as UTF-8"
    raise MissingDataError(f"the labels {escape(labels)} cannot be read: {cause}")


def _find_delimiter(head: str) -> str:
    """Return the delimiter of the first line: a comma, semicolon or tab."""
    return next((c for c in ";\t" if c in head and "," not in head), ",")


def _split_cells(line: str, delimiter: str) -> list[str]:
    cells = line.strip("\r\n").split(delimiter)
    return [cell.strip().strip('"').strip().casefold() for cell in cells]


def label_by_csv(
    folder: Path, labels: Path, contents: FolderContents
) -> tuple[list[LabelledImage], list[str]]:
    """Return the images that a CSV labels, and notes for the user.

    Files that the CSV names, and the CSV itself, are removed from `contents`.

    Raises:
        MissingDataError: If an image has no label or a label no image; the message names it.
    """
    rows, extra = _read_rows(labels)
    root = folder.resolve()
    files: dict[str, LabelledImage] = {}
    for line, row in rows:
        image = _parse_row(folder, root, f"{escape(labels)}, line {line}", row)
        if image.name in files:
            raise MissingDataError(
                f"{escape(labels)}, line {line}: {escape(image.name)} has a label already"
            )
        files[image.name] = image
    unnamed = [name for name in (*contents.images, *contents.unreadable) if name not in files]
    if unnamed:
        raise MissingDataError(
            f"image without a label: {summarise(unnamed, 'file')} in {escape(folder)} that "
            f"{escape(labels)} does not name"
        )
    for names in contents:
        names[:] = [name for name in names if name not in files]
    if labels.resolve().is_relative_to(root):
        own_name = labels.resolve().relative_to(root).as_posix()
        contents.other[:] = [name for name in contents.other if name != own_name]
    return list(files.values()), [f"columns not read: {', '.join(extra)}"] if extra else []


def _read_rows(labels: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Return the rows of a CSV, each with its last line number, and the unread columns."""
    text = _read_text(labels)
    delimiter = _find_delimiter(text.split("\n", 1)[0])
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    rows: list[tuple[int, dict[str, str]]] = []
    names: list[str] = []
    try:
        names = [name.strip().casefold() for name in next(reader, [])]
        twice = len(set(names)) < len(names)
        if twice or not {"file", "label"} <= {*names}:
            raise MissingDataError(f"{escape(labels)}, line 1: expected the columns file and label")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise MissingDataError(
                    f"{escape(labels)}, line {reader.line_num}: expected {len(names)} fields, the "
                    f"columns file and label among them; got {len(cells)}"
                )
            values = [cell.strip() for cell in cells]
            rows.append((reader.line_num, dict(zip(names, values, strict=True))))
    except csv.Error as error:
        raise MissingDataError(
            f"the labels {escape(labels)} cannot be read: line {reader.line_num}: {error}"
        ) from None
    return rows, [name for name in names if name not in COLUMNS]


def _parse_row(folder: Path, root: Path, where: str, row: dict[str, str]) -> LabelledImage:
    name, label = row["file"], row["label"]
    if not name or not label:
        raise MissingDataError(f"{where}: expected the columns file and label")
    path = Path(os.path.normpath(folder / name))
    if "\0" in name or not path.is_relative_to(os.path.normpath(folder)):
        raise MissingDataError(f"{where}: {escape(name)} is not below {escape(folder)}")
    clean = path.relative_to(os.path.normpath(folder)).as_posix()
    _check_file(root / clean, clean, root, where)
    for column in ("split", "owner"):
        if row.get(column) == "":
            raise MissingDataError(f"{where}: the column {column} is empty")
    split = parse_split(row.get("split", ""))
    if row.get("split") and not split:
        raise MissingDataError(f"{where}: {escape(row['split'])} is no split such as train or test")
    return LabelledImage(clean, folder / clean, label, split, row.get("owner", ""))


def _check_file(path: Path, name: str, root: Path, where: str) -> None:
    """Refuse a missing or special file, and one reached through a link out of the folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        mode = 0
    if path.is_symlink() or mode:
        inside = path.resolve().is_relative_to(root)
        if not inside:
            raise MissingDataError(
                f"{where}: {escape(name)} is a link: it is not below {escape(root)}"
            )
    if not stat.S_ISREG(mode):
        raise MissingDataError(f"label without image: {where}: no file {escape(path)}")
