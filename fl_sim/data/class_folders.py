"""Labels of images by their folders: one folder per class, perhaps within splits and owners."""

import re
from collections.abc import Iterable
from pathlib import Path

from fl_sim.core.errors import require
from fl_sim.data.folder_contents import LABELS, FolderContents, LabelledImage
from fl_sim.data.image_files import escape, summarise
from fl_sim.data.sources import MissingDataError
from fl_sim.data.splits import SPLITS, parse_split

NAMES = "|".join(name for names in SPLITS.values() for name in names)
LOOK_ALIKE = re.compile(rf"(?:^|[^a-z])({NAMES})(?:set)?(?![a-z]{{2}})")  # x_train, trainA, test1
LEVELS = ("split", "label", "owner")


def parse_levels(text: str | None) -> tuple[str, ...] | None:
    """Return the levels of folders, from the top, given as text such as `split/label/owner`.

    Raises:
        FieldError: If `label` is missing, or a level is neither `label`, `split` nor `owner`.
    """
    if text is None:
        return None
    levels = tuple(text.split("/"))
    fits = len(set(levels)) == len(levels) and set(levels) <= {*LEVELS} and "label" in levels
    allowed = "label, and split and owner before or after it, such as split/label/owner"
    require(fits, "folders", allowed, text)
    return levels


def label_by_folders(
    folder: Path, contents: FolderContents, levels: tuple[str, ...] | None
) -> tuple[list[LabelledImage], list[str]]:
    """Return the images, labelled by their folders, and notes for the user.

    Args:
        folder: Folder that holds the images.
        contents: Files and folders below it.
        levels: Meaning of its levels, from the top. If None, it is read from their names.

    Raises:
        MissingDataError: If a label is ambiguous; the message names the folder or the image.
    """
    parents = {name: tuple(name.split("/")[:-1]) for name in contents.images}
    for name, above in parents.items():
        if not above:
            unread = LABELS in contents.other  # its first line names no columns
            hint = "begin labels.csv with file,label" if unread else "give a CSV of labels"
            raise MissingDataError(
                f"image without a label: {escape(name)} lies beside the class folders of "
                f"{escape(folder)}; move it into one, or {hint}"
            )
    _refuse_empty(folder, contents)
    levels = levels or _guess_levels(folder, parents.values())
    files = [_label_image(folder, name, above, levels) for name, above in parents.items()]
    nested = [name for name, above in parents.items() if len(above) > len(levels)]
    if not nested:
        return files, []
    return files, [f"{summarise(nested, 'image')} in folders below those of the classes"]


def _refuse_empty(folder: Path, contents: FolderContents) -> None:
    """Refuse a folder at the top or in a split that holds no image: its class would be empty."""
    filled = {"/".join(name.split("/")[:depth]) for name in contents.images for depth in (1, 2)}
    for name in contents.folders:
        levels = name.split("/")
        checked = len(levels) == 1 or (len(levels) == 2 and parse_split(levels[0]))
        if checked and name not in filled:
            raise MissingDataError(
                f"label without images: the folder {escape(folder / name)} holds none"
            )


def _guess_levels(folder: Path, parents: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the levels of folders by their names; refuse ambiguous ones."""
    paths = set(parents)
    tops = sorted({path[0] for path in paths})
    splits = [top for top in tops if parse_split(top)]
    if not splits:
        inner = {path[1] if len(path) > 1 else "" for path in paths}
        if all(parse_split(name) for name in inner) and inner:
            names = ", ".join(sorted(inner))
            _raise_unclear(folder, f"the splits {names} below the classes", "label/split")
        _refuse_look_alikes(folder, paths)
        return ("label",)
    others = [top for top in tops if not parse_split(top)]
    if others:
        problem = f"{splits[0]}, which may be a split or a class, beside {others[0]}"
        _raise_unclear(folder, problem, "label")
    kinds = [parse_split(top) for top in splits]
    if len(set(kinds)) < len(kinds):
        _raise_unclear(folder, f"{' and '.join(splits)}, of which two are the same split", "label")
    bare = sorted(path[0] for path in paths if len(path) == 1)
    if bare:
        _raise_unclear(folder, f"images without class folders in the split {bare[0]}", "label")
    return ("split", "label")


def _refuse_look_alikes(folder: Path, paths: set[tuple[str, ...]]) -> None:
    """Refuse top folders that are hardly classes: x_train beside x_test, or the same in each."""
    tops = sorted({path[0] for path in paths})
    matches = [LOOK_ALIKE.search(top.casefold()) for top in tops]
    if all(matches) and len({parse_split(match[1]) for match in matches if match}) > 1:
        _raise_unclear(folder, f"{' and '.join(tops[:2])}, which may be splits or classes", "label")
    inner = [{path[1] for path in paths if path[0] == top and len(path) > 1} for top in tops]
    nested = all(len(path) > 1 for path in paths)
    if nested and len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        names = ", ".join(sorted(inner[0])[:2])
        _raise_unclear(folder, f"the same folders ({names}) in each top folder", "label")


def _raise_unclear(folder: Path, problem: str, hint: str) -> None:
    raise MissingDataError(
        f"unclear: {escape(folder)} has {escape(problem)}; rename a folder, or name the levels "
        f"(folders={hint})"
    )


def _label_image(
    folder: Path, name: str, above: tuple[str, ...], levels: tuple[str, ...]
) -> LabelledImage:
    if len(above) < len(levels):
        raise MissingDataError(
            f"{escape(name)} in {escape(folder)} lies in {len(above)} folders; folders="
            f"{'/'.join(levels)} needs {len(levels)}"
        )
    names = dict(zip(levels, above, strict=False))
    split = parse_split(names.get("split", ""))
    if "split" in names and not split:
        known = ", ".join(word for words in SPLITS.values() for word in words)
        raise MissingDataError(
            f"{escape(folder)}: {escape(names['split'])} is no split; expected {known}"
        )
    return LabelledImage(name, folder / name, names["label"], split, names.get("owner", ""))
