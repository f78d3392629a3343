"""Is a protected folder what its manifest says? Hashes, labels, and the radius pixel by pixel.

A manifest is a claim of whoever wrote it. What is measured is measured on the images; the verdict
keeps both apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts import Protection
from fl_sim.core.atomic_io import bytes_sha256
from fl_sim.core.errors import RequestError
from fl_sim.data.arrays import Arrays, Split
from fl_sim.data.folders import read_folder
from fl_sim.data.pictures import decode, shown
from fl_sim.data.sources import MissingDataError
from fl_sim.publish import manifest
from fl_sim.publish.manifest import Entry
from fl_sim.publish.noise import Watch
from fl_sim.publish.request import MANIFEST, STARTED, links_below

LABELS = "labels.csv"
OWN_FILES = (MANIFEST, STARTED, LABELS)


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        num_images: in the manifest.
        compared: whether the originals were there, so that every pixel was compared.
        problems: one line each; empty where all is well.
        originals: where they are; "" where they were not compared.
        measured: largest change of a pixel that was measured, in levels of 255; -1 where nothing
            was compared.
        claimed: largest change of a pixel that the manifest claims, in levels of 255.
        radius: that the manifest claims to have been asked for, in levels of 255.
        norm: in which the radius is meant.
    """

    num_images: int
    compared: bool
    problems: tuple[str, ...]
    originals: str = ""
    measured: int = -1
    claimed: int = -1
    radius: float = -1.0
    norm: str = "linf"


class Finding(NamedTuple):
    """One thing that was found on one image: a problem, or how far its pixels have moved."""

    problem: str = ""
    change: int = -1


def check(out: Path, source: Path | None, watch: Watch) -> Verdict:
    """Compare a protected folder with its manifest, and with the originals where they are there.

    Nothing outside the two is read, and no link is followed.

    Args:
        out: the protected folder.
        source: the originals; None: where the manifest says.
        watch: hears how far it is.

    Raises:
        RequestError: where there is no manifest, or a damaged one, or `source` does not exist.
    """
    content = manifest.read(out)
    if source is not None and not source.exists():
        raise RequestError(f"INPUT: there is no {source}")
    entries, protection = manifest.entries_of(content), manifest.protection_of(content)
    known = _there(source or Path(content["source"]))
    of_arrays = all(entry.file.endswith(".npz") for entry in entries)
    find = _in_arrays if of_arrays else _in_folder
    found = list(find(out, known, entries, protection, watch))
    problems = [own.problem for own in found if own.problem]
    changes = [own.change for own in found if own.change >= 0]
    if changes and max(changes) == 0:
        problems.append("no pixel differs from the originals: nothing is protected")
    problems += _strays(out, {entry.file for entry in entries})
    return Verdict(
        num_images=len(entries),
        compared=known is not None,
        problems=tuple(problems),
        originals="" if known is None else str(known),
        measured=max(changes, default=-1),
        claimed=max(entry.change for entry in entries),
        radius=protection.radius * 255,
        norm=protection.norm,
    )


def _there(claimed: Path) -> Path | None:
    """Return where the originals are; None where a manifest names no file or folder."""
    try:
        path = claimed.resolve()
        return path if path.is_dir() or path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, or no name at all
        return None


def summary(verdict: Verdict) -> list[str]:
    """Return in words what was compared with what, and what is only a claim of the manifest."""
    asked = f"{verdict.radius:.3g}/255" + (" (root mean square)" if verdict.norm == "l2" else "")
    claim = f"the manifest claims a radius of {asked} and changes up to {verdict.claimed}/255"
    against = "hashes, labels and radius" if verdict.compared else "hashes and labels"
    lines = [f"{verdict.num_images} images are as protected: {against} of the manifest"]
    if verdict.compared:
        lines.append(
            f"measured against the originals in {shown(verdict.originals)}: every change is at "
            f"most {verdict.measured}/255; {claim}"
        )
    else:
        lines.append(
            f"not measured: give the originals as INPUT to check the radius; {claim}, for which "
            f"there is no evidence here"
        )
    return lines


def _inside(root: Path, name: str) -> Path | None:
    """Return the path of a plain file below `root`; None where a link or nothing is there."""
    path = root / name
    try:
        straight = path.resolve(strict=True) == root.resolve() / name
    except (OSError, RuntimeError, ValueError):
        return None
    return path if straight and path.is_file() else None


def _in_folder(
    out: Path, source: Path | None, entries: list[Entry], protection: Protection, watch: Watch
) -> Iterator[Finding]:
    labels = _labels_there(out)
    for index, entry in enumerate(entries):
        watch("images checked", index + 1, len(entries))
        path = _inside(out, entry.file)
        if path is None:
            yield Finding(f"{shown(entry.file)} is missing")
            continue
        label = _label_of(entry, labels)
        if label != entry.label:
            yield Finding(f"{shown(entry.file)} has the label {label}, not {shown(entry.label)}")
        content = path.read_bytes()
        if bytes_sha256(content) != entry.sha256:
            yield Finding(f"{shown(entry.file)} was changed after it was protected")
            continue
        if source is not None:
            yield _against(source, content, entry, protection)


def _labels_there(out: Path) -> dict[str, str] | None:
    """Return the labels that a CSV gives; None where folders are the labels."""
    if _inside(out, LABELS) is None:
        return None
    try:
        return {own.name: own.label for own in read_folder(out, out / LABELS).files}
    except MissingDataError:
        return {}


def _label_of(entry: Entry, labels: dict[str, str] | None) -> str | None:
    """Return the label of an image as the folder says it."""
    if labels is not None:
        return labels.get(entry.file)
    above = Path(entry.file).parts[:-1]
    if entry.label in above:
        return entry.label
    return above[0] if above else None


def _against(source: Path, content: bytes, entry: Entry, protection: Protection) -> Finding:
    original = _inside(source, entry.name)
    if original is None:
        return Finding(f"the original {shown(source / entry.name)} is missing")
    before = original.read_bytes()
    if bytes_sha256(before) != entry.source_sha256:
        return Finding(f"the original {shown(original)} is not the one that was protected")
    try:
        clean, own = (decode(b, n).pixels for b, n in ((before, entry.name), (content, entry.file)))
    except MissingDataError as error:
        return Finding(str(error))
    if clean.shape[1:] != own.shape[1:] or len(clean) > len(own):
        return Finding(f"{shown(entry.file)} has another size than its original")
    alike = clean.expand(len(own), -1, -1)  # a grey image may have become a colour one
    return _measure(alike, own, entry, shown(entry.file), protection)


def _measure(
    clean: UInt8[Tensor, "c h w"],
    own: UInt8[Tensor, "c h w"],
    entry: Entry,
    name: str,
    protection: Protection,
) -> Finding:
    """Measure the change of an image: within the radius, and what the manifest claims?"""
    moved = (own.int() - clean.int()).abs()
    change = int(moved.max())
    if protection.norm == "linf":
        size, allowed = float(change), float(int(protection.radius * 255 + 1e-6))
    else:
        size = float(moved.double().square().mean().sqrt())
        allowed = protection.radius * 255 + 0.5
    if size > allowed:
        problem = f"{name} changes by {size:g} levels, more than {allowed:g}"
        return Finding(problem, change)
    if change != entry.change:
        problem = f"{name} changes by {change} levels, not by {entry.change} as the manifest claims"
        return Finding(problem, change)
    return Finding(change=change)


def _in_arrays(
    out: Path, source: Path | None, entries: list[Entry], protection: Protection, watch: Watch
) -> Iterator[Finding]:
    path = _inside(out, entries[0].file)
    if path is None or any(entry.file != entries[0].file for entry in entries):
        yield Finding(f"{shown(entries[0].file)} is missing")
        return
    try:
        found = _splits(path)
        before = _splits(source) if source else {}
    except MissingDataError as error:
        yield Finding(str(error))
        return
    for index, entry in enumerate(entries):
        if index % 500 == 0 or index + 1 == len(entries):
            watch("images checked", index + 1, len(entries))
        yield from _row_findings(entry, found, before if source else None, protection)


def _row_findings(
    entry: Entry,
    found: dict[str, Split],
    before: dict[str, Split] | None,
    protection: Protection,
) -> Iterator[Finding]:
    name, own = shown(entry.name), _row(found, entry.name)
    if own is None:
        yield Finding(f"{name} is missing")
        return
    pixels, label = own
    if str(label) != entry.label:
        yield Finding(f"{name} has the label {label}, not {shown(entry.label)}")
    if bytes_sha256(pixels.numpy().tobytes()) != entry.sha256:
        yield Finding(f"{name} was changed after it was protected")
    elif before is not None:
        clean = _row(before, entry.name)
        if clean is None or bytes_sha256(clean[0].numpy().tobytes()) != entry.source_sha256:
            yield Finding(f"the original {name} is not the one that was protected")
        elif clean[0].shape != pixels.shape:
            yield Finding(f"{name} has another size than its original")
        else:
            yield _measure(clean[0], pixels, entry, name, protection)


def _splits(path: Path) -> dict[str, Split]:
    arrays = Arrays(path)
    return {split.pair.images: split for split in arrays.read(arrays.pairs)}


def _row(splits: dict[str, Split], name: str) -> tuple[UInt8[Tensor, "c h w"], int] | None:
    """Return an image and its label by its name in a manifest, such as `train_images/7`."""
    array, _, index = name.rpartition("/")
    split = splits.get(array)
    is_place = index.isascii() and index.isdecimal() and len(index) < 19
    if split is None or not is_place or int(index) >= len(split.labels):
        return None
    return split.images[int(index)], int(split.labels[int(index)])


def _strays(out: Path, known: set[str]) -> list[str]:
    """Return what lies in the folder and is not in the manifest: it may be unprotected."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and not path.is_symlink())
    names = [path.relative_to(out).as_posix() for path in files]
    strays = [
        f"{shown(name)} is not in the manifest"
        for name in names
        if name not in known | {*OWN_FILES}
    ]
    links = [f"{shown(path.relative_to(out))} is a link" for path in sorted(links_below(out))]
    return strays + links
