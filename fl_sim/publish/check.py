"""Checks a protected folder against its manifest: hashes, labels, and the radius of each pixel.

A manifest is a claim of its author. The result keeps claims apart from values that were measured
on the images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts import Protection
from fl_sim.core.atomic_io import hash_bytes
from fl_sim.core.errors import RequestError
from fl_sim.data.arrays import NpzFile, Split
from fl_sim.data.folders import read_folder
from fl_sim.data.image_files import decode, escape
from fl_sim.data.sources import MissingDataError
from fl_sim.publish import manifest
from fl_sim.publish.manifest import ImageEntry
from fl_sim.publish.noise import Progress
from fl_sim.publish.request import MANIFEST, STARTED, find_links

LABELS = "labels.csv"
OWN_FILES = (MANIFEST, STARTED, LABELS)


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        num_images: Number of images in the manifest.
        compared: True if the originals were found, so that every pixel was compared.
        problems: Problems, one line each; empty if there are none.
        originals: Path of the originals, or an empty string if they were not compared.
        measured: Largest measured change of a pixel, in levels of 255, or -1 if none was compared.
        claimed: Largest change of a pixel by the manifest, in levels of 255.
        radius: Requested radius by the manifest, in levels of 255.
        norm: Norm of the radius.
    """

    num_images: int
    compared: bool
    problems: tuple[str, ...]
    originals: str = ""
    measured: int = -1
    claimed: int = -1
    radius: float = -1.0
    norm: str = "linf"


class ImageFinding(NamedTuple):
    """A problem of one image, or the largest change of its pixels in levels of 255."""

    problem: str = ""
    change: int = -1


def check_protected(out: Path, source: Path | None, progress: Progress) -> CheckResult:
    """Compare a protected folder with its manifest, and with the originals if they are found.

    Nothing outside the two is read, and no link is followed.

    Args:
        out: The protected folder.
        source: The originals. If None, their path is taken from the manifest.
        progress: Called with the stage and the number of images done.

    Raises:
        RequestError: If the manifest is missing or damaged, or `source` does not exist.
    """
    content = manifest.read(out)
    if source is not None and not source.exists():
        raise RequestError(f"INPUT: there is no {source}")
    entries, protection = manifest.list_entries(content), manifest.parse_protection(content)
    originals = _find_originals(source or Path(content["source"]))
    of_arrays = all(entry.file.endswith(".npz") for entry in entries)
    check = _check_arrays if of_arrays else _check_files
    findings = list(check(out, originals, entries, protection, progress))
    problems = [finding.problem for finding in findings if finding.problem]
    changes = [finding.change for finding in findings if finding.change >= 0]
    if changes and max(changes) == 0:
        problems.append("no pixel differs from the originals: nothing is protected")
    problems += _find_strays(out, {entry.file for entry in entries})
    return CheckResult(
        num_images=len(entries),
        compared=originals is not None,
        problems=tuple(problems),
        originals="" if originals is None else str(originals),
        measured=max(changes, default=-1),
        claimed=max(entry.change for entry in entries),
        radius=protection.radius * 255,
        norm=protection.norm,
    )


def _find_originals(claimed: Path) -> Path | None:
    """Return the path of the originals, or None if the manifest names no file or folder."""
    try:
        path = claimed.resolve()
        return path if path.is_dir() or path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, or no name at all
        return None


def describe_result(result: CheckResult) -> list[str]:
    """Return lines of text that keep measured values apart from claims of the manifest."""
    radius = f"{result.radius:.3g}/255" + (" (root mean square)" if result.norm == "l2" else "")
    claim = f"the manifest claims a radius of {radius} and changes up to {result.claimed}/255"
    against = "hashes, labels and radius" if result.compared else "hashes and labels"
    lines = [f"{result.num_images} images are as protected: {against} of the manifest"]
    if result.compared:
        lines.append(
            f"measured against the originals in {escape(result.originals)}: every change is at "
            f"most {result.measured}/255; {claim}"
        )
    else:
        lines.append(
            f"not measured: give the originals as INPUT to check the radius; {claim}, for which "
            f"there is no evidence here"
        )
    return lines


def _resolve_inside(root: Path, name: str) -> Path | None:
    """Return the path of a regular file below `root`, or None if it is missing or a link."""
    path = root / name
    try:
        straight = path.resolve(strict=True) == root.resolve() / name
    except (OSError, RuntimeError, ValueError):
        return None
    return path if straight and path.is_file() else None


def _check_files(
    out: Path,
    source: Path | None,
    entries: list[ImageEntry],
    protection: Protection,
    progress: Progress,
) -> Iterator[ImageFinding]:
    labels = _read_labels(out)
    for index, entry in enumerate(entries):
        progress("images checked", index + 1, len(entries))
        path = _resolve_inside(out, entry.file)
        if path is None:
            yield ImageFinding(f"{escape(entry.file)} is missing")
            continue
        label = _find_label(entry, labels)
        if label != entry.label:
            name = escape(entry.file)
            yield ImageFinding(f"{name} has the label {label}, not {escape(entry.label)}")
        content = path.read_bytes()
        if hash_bytes(content) != entry.sha256:
            yield ImageFinding(f"{escape(entry.file)} was changed after it was protected")
            continue
        if source is not None:
            yield _compare_with_original(source, content, entry, protection)


def _read_labels(out: Path) -> dict[str, str] | None:
    """Return the labels of the CSV by file, or None if folders are the labels."""
    if _resolve_inside(out, LABELS) is None:
        return None
    try:
        return {image.name: image.label for image in read_folder(out, out / LABELS).files}
    except MissingDataError:
        return {}


def _find_label(entry: ImageEntry, labels: dict[str, str] | None) -> str | None:
    """Return the label of an image by the CSV or by its folder."""
    if labels is not None:
        return labels.get(entry.file)
    above = Path(entry.file).parts[:-1]
    if entry.label in above:
        return entry.label
    return above[0] if above else None


def _compare_with_original(
    source: Path, content: bytes, entry: ImageEntry, protection: Protection
) -> ImageFinding:
    original = _resolve_inside(source, entry.name)
    if original is None:
        return ImageFinding(f"the original {escape(source / entry.name)} is missing")
    before = original.read_bytes()
    if hash_bytes(before) != entry.source_sha256:
        return ImageFinding(f"the original {escape(original)} is not the one that was protected")
    try:
        files = ((before, entry.name), (content, entry.file))
        clean, noisy = (decode(data, name).pixels for data, name in files)
    except MissingDataError as error:
        return ImageFinding(str(error))
    if clean.shape[1:] != noisy.shape[1:] or len(clean) > len(noisy):
        return ImageFinding(f"{escape(entry.file)} has another size than its original")
    clean = clean.expand(len(noisy), -1, -1)  # a grey image may have become a colour one
    return _measure(clean, noisy, entry, escape(entry.file), protection)


def _measure(
    clean: UInt8[Tensor, "c h w"],
    noisy: UInt8[Tensor, "c h w"],
    entry: ImageEntry,
    name: str,
    protection: Protection,
) -> ImageFinding:
    """Measure the change of an image, and compare it with the radius and the manifest."""
    moved = (noisy.int() - clean.int()).abs()
    change = int(moved.max())
    if protection.norm == "linf":
        size, allowed = float(change), float(int(protection.radius * 255 + 1e-6))
    else:
        size = float(moved.double().square().mean().sqrt())
        allowed = protection.radius * 255 + 0.5
    if size > allowed:
        problem = f"{name} changes by {size:g} levels, more than {allowed:g}"
        return ImageFinding(problem, change)
    if change != entry.change:
        problem = f"{name} changes by {change} levels, not by {entry.change} as the manifest claims"
        return ImageFinding(problem, change)
    return ImageFinding(change=change)


def _check_arrays(
    out: Path,
    source: Path | None,
    entries: list[ImageEntry],
    protection: Protection,
    progress: Progress,
) -> Iterator[ImageFinding]:
    path = _resolve_inside(out, entries[0].file)
    if path is None or any(entry.file != entries[0].file for entry in entries):
        yield ImageFinding(f"{escape(entries[0].file)} is missing")
        return
    try:
        splits = _read_splits(path)
        originals = _read_splits(source) if source else {}
    except MissingDataError as error:
        yield ImageFinding(str(error))
        return
    for index, entry in enumerate(entries):
        if index % 500 == 0 or index + 1 == len(entries):
            progress("images checked", index + 1, len(entries))
        yield from _check_row(entry, splits, originals if source else None, protection)


def _check_row(
    entry: ImageEntry,
    splits: dict[str, Split],
    originals: dict[str, Split] | None,
    protection: Protection,
) -> Iterator[ImageFinding]:
    name, row = escape(entry.name), _get_row(splits, entry.name)
    if row is None:
        yield ImageFinding(f"{name} is missing")
        return
    pixels, label = row
    if str(label) != entry.label:
        yield ImageFinding(f"{name} has the label {label}, not {escape(entry.label)}")
    if hash_bytes(pixels.numpy().tobytes()) != entry.sha256:
        yield ImageFinding(f"{name} was changed after it was protected")
    elif originals is not None:
        clean = _get_row(originals, entry.name)
        if clean is None or hash_bytes(clean[0].numpy().tobytes()) != entry.source_sha256:
            yield ImageFinding(f"the original {name} is not the one that was protected")
        elif clean[0].shape != pixels.shape:
            yield ImageFinding(f"{name} has another size than its original")
        else:
            yield _measure(clean[0], pixels, entry, name, protection)


def _read_splits(path: Path) -> dict[str, Split]:
    arrays = NpzFile(path)
    return {split.pair.images: split for split in arrays.read(arrays.pairs)}


def _get_row(splits: dict[str, Split], name: str) -> tuple[UInt8[Tensor, "c h w"], int] | None:
    """Return an image and its label by its name in a manifest, such as `train_images/7`."""
    array, _, index = name.rpartition("/")
    split = splits.get(array)
    is_place = index.isascii() and index.isdecimal() and len(index) < 19
    if split is None or not is_place or int(index) >= len(split.labels):
        return None
    return split.images[int(index)], int(split.labels[int(index)])


def _find_strays(out: Path, known: set[str]) -> list[str]:
    """Return a problem per file of the folder that is not in the manifest or is a link."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and not path.is_symlink())
    names = [path.relative_to(out).as_posix() for path in files]
    strays = [name for name in names if name not in known | {*OWN_FILES}]
    links = [f"{escape(path.relative_to(out))} is a link" for path in sorted(find_links(out))]
    return [*(f"{escape(name)} is not in the manifest" for name in strays), *links]
