"""Labels by folders: one folder a class, perhaps within parts and owners."""

import re
from collections.abc import Iterable
from pathlib import Path

from fl_sim.core.errors import require
from fl_sim.data.folder_contents import LABELS, FolderContents, LabelledImage
from fl_sim.data.image_files import escape, summarise
from fl_sim.data.sources import MissingDataError
from fl_sim.data.splits import SPLITS, parse_split

NAMES = "|".join(name for own in SPLITS.values() for name in own)
LOOK_ALIKE = re.compile(rf"(?:^|[^a-z])({NAMES})(?:set)?(?![a-z]{{2}})")  # x_train, trainA, test1
LEVELS = ("split", "label", "owner")


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


def label_by_folders(
    folder: Path, contents: FolderContents, levels: tuple[str, ...] | None
) -> tuple[list[LabelledImage], list[str]]:
    """Return the images, labelled by their folders, and notes on what was decided.

    Args:
        folder: that is read.
        contents: what lies below it.
        levels: what its levels name, from the top; None: what their names say.

    Raises:
        MissingDataError: for what is unclear, naming the folder or the image.
    """
    places = {name: tuple(name.split("/")[:-1]) for name in contents.images}
    for name, above in places.items():
        if not above:
            unread = LABELS in contents.other  # since its first line names no columns
            hint = "begin labels.csv with file,label" if unread else "give a CSV of labels"
            raise MissingDataError(
                f"image without a label: {escape(name)} lies beside the class folders of "
                f"{escape(folder)}; move it into one, or {hint}"
            )
    _refuse_empty(folder, contents)
    levels = levels or _guess_levels(folder, places.values())
    files = [_label_image(folder, name, above, levels) for name, above in places.items()]
    nested = [name for name, above in places.items() if len(above) > len(levels)]
    notes = (
        [f"{summarise(nested, 'image')} in folders below those of the classes"] if nested else []
    )
    return files, notes


def _refuse_empty(folder: Path, contents: FolderContents) -> None:
    """Refuse a folder on top, or in a part, that holds no image: it would be a class of none."""
    filled = {"/".join(name.split("/")[:depth]) for name in contents.images for depth in (1, 2)}
    for own in contents.folders:
        above = own.split("/")
        checked = len(above) == 1 or (len(above) == 2 and parse_split(above[0]))
        if checked and own not in filled:
            raise MissingDataError(
                f"label without images: the folder {escape(folder / own)} holds none"
            )


def _guess_levels(folder: Path, places: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the levels of folders whose names say what they are, or refuse what is unclear."""
    above = set(places)
    tops = sorted({own[0] for own in above})
    parts = [top for top in tops if parse_split(top)]
    if not parts:
        inner = {own[1] if len(own) > 1 else "" for own in above}
        if all(parse_split(name) for name in inner) and inner:
            _raise_unclear(
                folder, f"the parts {', '.join(sorted(inner))} below the classes", "label/split"
            )
        _refuse_look_alikes(folder, above)
        return ("label",)
    others = [top for top in tops if not parse_split(top)]
    if others:
        _raise_unclear(
            folder, f"{parts[0]}, which may be a part or a class, beside {others[0]}", "label"
        )
    kinds = [parse_split(top) for top in parts]
    if len(set(kinds)) < len(kinds):
        _raise_unclear(folder, f"{' and '.join(parts)}, of which two mean the same part", "label")
    bare = sorted(own[0] for own in above if len(own) == 1)
    if bare:
        _raise_unclear(folder, f"images without class folders in the part {bare[0]}", "label")
    return ("split", "label")


def _refuse_look_alikes(folder: Path, above: set[tuple[str, ...]]) -> None:
    """Refuse folders on top that are hardly classes: x_train beside x_test, or one with all."""
    tops = sorted({own[0] for own in above})
    hints = [LOOK_ALIKE.search(top.casefold()) for top in tops]
    if all(hints) and len({parse_split(own[1]) for own in hints if own}) > 1:
        _raise_unclear(folder, f"{' and '.join(tops[:2])}, which may be parts or classes", "label")
    inner = [{own[1] for own in above if own[0] == top and len(own) > 1} for top in tops]
    nested = all(len(own) > 1 for own in above)
    if nested and len(inner[0]) > 1 and all(own == inner[0] for own in inner):
        names = ", ".join(sorted(inner[0])[:2])
        _raise_unclear(folder, f"the same folders ({names}) in each folder on top", "label")


def _raise_unclear(folder: Path, what: str, hint: str) -> None:
    raise MissingDataError(
        f"unclear: {escape(folder)} has {escape(what)}; rename a folder, or say what the levels "
        f"are (folders={hint})"
    )


def _label_image(
    folder: Path, name: str, above: tuple[str, ...], levels: tuple[str, ...]
) -> LabelledImage:
    if len(above) < len(levels):
        raise MissingDataError(
            f"{escape(name)} in {escape(folder)} lies in {len(above)} folders; folders="
            f"{'/'.join(levels)} needs {len(levels)}"
        )
    said = dict(zip(levels, above, strict=False))
    part = parse_split(said.get("split", ""))
    if "split" in said and not part:
        known = ", ".join(word for names in SPLITS.values() for word in names)
        raise MissingDataError(
            f"{escape(folder)}: {escape(said['split'])} is no part of a dataset; expected {known}"
        )
    return LabelledImage(name, folder / name, said["label"], part, said.get("owner", ""))
