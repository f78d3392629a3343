"""Is a protected folder what its manifest says? Hashes, labels, and the radius pixel by pixel."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from fl_sim.contracts import Protection
from fl_sim.data.files import decode, labelled_files, read_npz
from fl_sim.data.sources import MissingDataError
from fl_sim.description import construct
from fl_sim.errors import RequestError
from fl_sim.publish import manifest
from fl_sim.publish.manifest import Entry, sha256
from fl_sim.publish.noise import Watch

OWN_FILES = (manifest.MANIFEST, manifest.STARTED, "labels.csv")


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        num_images: in the manifest.
        compared: whether the originals were there, so that every pixel was compared.
        problems: one line each; empty where all is well.
    """

    num_images: int
    compared: bool
    problems: tuple[str, ...]


def check(out: Path, source: Path | None, watch: Watch) -> Verdict:
    """Compare a protected folder with its manifest, and with the originals where they are there.

    Args:
        out: the protected folder.
        source: the originals; None: where the manifest says.
        watch: hears how far it is.

    Raises:
        RequestError: where there is no manifest, or `source` does not exist.
    """
    content = manifest.read(out)
    if source is not None and not source.exists():
        raise RequestError(f"INPUT: there is no {source}")
    entries = [Entry(**entry) for entry in content["images"]]
    originals = source or Path(content["source"])
    known = originals if originals.exists() else None
    protection = construct(content["request"]["protection"], Protection)  # type: ignore[type-abstract]
    of_arrays = all(entry.file.endswith(".npz") for entry in entries)
    find = _in_arrays if of_arrays else _in_folder
    problems = list(find(out, known, entries, protection, watch))
    problems += _strays(out, {entry.file for entry in entries})
    return Verdict(len(entries), known is not None, tuple(problems))


def _in_folder(
    out: Path, source: Path | None, entries: list[Entry], protection: Protection, watch: Watch
) -> Iterator[str]:
    labels = _labels_there(out)
    for index, entry in enumerate(entries):
        watch("images checked", index + 1, len(entries))
        path = out / entry.file
        if not path.exists():
            yield f"{entry.file} is missing"
            continue
        if labels.get(entry.file) != entry.label:
            yield f"{entry.file} has the label {labels.get(entry.file)}, not {entry.label}"
        content = path.read_bytes()
        if sha256(content) != entry.sha256:
            yield f"{entry.file} was changed after it was protected"
            continue
        original = source / entry.name if source else None
        if original is not None:
            yield from _against(original, decode(content, entry.file).pixels, entry, protection)


def _labels_there(out: Path) -> dict[str, str]:
    labels = out / "labels.csv"
    try:
        found = labelled_files(out, labels if labels.exists() else None)
    except MissingDataError:
        return {path.relative_to(out).as_posix(): path.parent.name for path in out.rglob("*.png")}
    return {own.name: own.label for own in found}


def _against(
    original: Path, pixels: UInt8[Tensor, "c h w"], entry: Entry, protection: Protection
) -> Iterator[str]:
    if not original.exists():
        yield f"the original {original} is missing"
        return
    content = original.read_bytes()
    if sha256(content) != entry.source_sha256:
        yield f"the original {original} is not the one that was protected"
        return
    clean = decode(content, entry.name).pixels
    if clean.shape[1:] != pixels.shape[1:]:
        yield f"{entry.file} has another size than its original"
        return
    alike = clean.expand(len(pixels), -1, -1)  # a grey image may have become a colour one
    yield from _too_far(alike[None], pixels[None], [entry.file], protection)


def _too_far(
    clean: UInt8[Tensor, "n c h w"],
    own: UInt8[Tensor, "n c h w"],
    names: list[str],
    protection: Protection,
) -> Iterator[str]:
    """Yield the images whose change is larger than the radius allows."""
    change = own.int() - clean.int()
    if protection.norm == "linf":
        allowed = float(int(protection.radius * 255 + 1e-6))
        sizes = change.abs().amax((1, 2, 3)).double()
    else:
        allowed = protection.radius * 255 + 0.5
        sizes = change.double().square().mean((1, 2, 3)).sqrt()
    for row in (sizes > allowed).nonzero().flatten().tolist():
        yield f"{names[row]} changes by {float(sizes[row]):g} levels, more than {allowed:g}"


def _in_arrays(
    out: Path, source: Path | None, entries: list[Entry], protection: Protection, watch: Watch
) -> Iterator[str]:
    path = out / entries[0].file
    if not path.exists():
        yield f"{path.name} is missing"
        return
    found = _rows(path)
    before = _rows(source) if source else {}
    for index, entry in enumerate(entries):
        if index % 500 == 0 or index + 1 == len(entries):
            watch("images checked", index + 1, len(entries))
        if entry.name not in found:
            yield f"{entry.name} is missing"
            continue
        pixels, label = found[entry.name]
        if str(label) != entry.label:
            yield f"{entry.name} has the label {label}, not {entry.label}"
        if sha256(pixels.numpy().tobytes()) != entry.sha256:
            yield f"{entry.name} was changed after it was protected"
        elif source is not None:
            clean = before.get(entry.name)
            if clean is None or sha256(clean[0].numpy().tobytes()) != entry.source_sha256:
                yield f"the original {entry.name} is not the one that was protected"
            else:
                yield from _too_far(clean[0][None], pixels[None], [entry.name], protection)


def _rows(path: Path) -> dict[str, Any]:
    return {
        f"{split.prefix}images/{index}": (image, label)
        for split in read_npz(path)[1]
        for index, (image, label) in enumerate(
            zip(split.images, split.labels.tolist(), strict=True)
        )
    }


def _strays(out: Path, known: set[str]) -> list[str]:
    """Return what lies in the folder and is not in the manifest: it may be unprotected."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    names = [path.relative_to(out).as_posix() for path in files]
    return [f"{name} is not in the manifest" for name in names if name not in known | {*OWN_FILES}]
