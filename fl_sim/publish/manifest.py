"""The manifest of protected images, and the journal that it is made of.

Each finished image is one line of journal.jsonl; at the end, all of them are in manifest.json.
"""

import importlib.metadata
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from fl_sim.contracts import Protection
from fl_sim.core.errors import RequestError, RunFailedError
from fl_sim.core.plugins import discover
from fl_sim.core.serialization import construct
from fl_sim.publish.request import (
    JOURNAL,
    MANIFEST,
    STARTED,
    Request,
    wrap_write_errors,
    write_file,
)

VERSION = 1
MAX_BYTES = 2**29  # a manifest of 100,000 images takes 40 MB
PARTS = ("fl_sim.experiment.Model",)  # classes of the fields of protections
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageEntry:
    """One protected image.

    Attributes:
        name: Path of the input below its folder; in an .npz file, the array and the index.
        file: Path of the output below its folder.
        label: Label.
        source_sha256: SHA-256 of the input file; in an .npz file, of the image's pixels.
        sha256: SHA-256 of the output file; in an .npz file, of the image's pixels.
        change: Largest change of a pixel, in levels of 255.
        psnr: Peak signal-to-noise ratio in dB, or None if no pixel changed.
        ssim: Structural similarity of input and output.
    """

    name: str
    file: str
    label: str
    source_sha256: str
    sha256: str
    change: int
    psnr: float | None
    ssim: float


def begin(out: Path, started: dict[str, Any]) -> dict[str, ImageEntry]:
    """Write down the request, and return the images that an interrupted call of it has finished.

    Raises:
        RequestError: If the folder holds anything else.
    """
    path = out / STARTED
    if path.exists():
        if _read_json(path) != started:
            raise RequestError(
                f"--out: {out} holds the result of other images or settings; choose another folder"
            )
        return read_entries(out)
    others = [path.name for path in out.iterdir()]
    if others:
        raise RequestError(f"--out: {out} is not empty and holds no manifest; it has {others[0]}")
    write_file(path, (json.dumps(started, indent=2) + "\n").encode(), private=True)
    return {}


def read_entries(out: Path) -> dict[str, ImageEntry]:
    """Return the finished images by name; incomplete lines of the journal are skipped."""
    if (out / MANIFEST).exists():
        return {entry.name: entry for entry in list_entries(read(out))}
    if not (out / JOURNAL).exists():
        return {}
    entries = {}
    for line in (out / JOURNAL).read_text().splitlines():
        try:
            entry = _parse_entry(json.loads(line))
        except (ValueError, RecursionError):
            continue
        entries[entry.name] = entry
    return entries


def append(out: Path, entry: ImageEntry) -> None:
    """Append a finished image to the journal, on a line of its own even after a torn write.

    Raises:
        RunFailedError: If the disk is full.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    mode = stat.S_IRUSR | stat.S_IWUSR
    with wrap_write_errors(out / JOURNAL), open(os.open(out / JOURNAL, flags, mode), "a") as file:
        file.write("\n" + json.dumps(asdict(entry)))


def refuse_unchanged(request: Request, entries: list[ImageEntry]) -> None:
    """Refuse a result in which no pixel of any image has changed."""
    if all(entry.change == 0 for entry in entries):
        raise RunFailedError(f"{request.name} changed no pixel of any image: nothing is protected")


def finish(out: Path, content: dict[str, Any], entries: list[ImageEntry]) -> None:
    """Write the manifest, and remove the journal."""
    head = {"version": VERSION, "fl_sim": importlib.metadata.version("fl-sim")}
    whole = {**head, **content, "images": [asdict(entry) for entry in entries]}
    write_file(out / MANIFEST, (json.dumps(whole, indent=1) + "\n").encode(), private=True)
    (out / JOURNAL).unlink(missing_ok=True)


def read(out: Path) -> dict[str, Any]:
    """Return the manifest of a folder, with its structure and types checked.

    Its values are claims: none of them has been compared with an image.

    Raises:
        RequestError: If it is missing or damaged.
    """
    path = out / MANIFEST
    if not path.exists():
        unfinished = (out / STARTED).exists()
        hint = "the same command as before finishes it" if unfinished else "nothing was made here"
        raise RequestError(f"there is no {path}: {hint}")
    content = _read_json(path)
    try:
        _check(content)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    manifest: dict[str, Any] = content
    return manifest


def list_entries(content: dict[str, Any]) -> list[ImageEntry]:
    """Return the images of a manifest."""
    return [ImageEntry(**entry) for entry in content["images"]]


def parse_protection(content: dict[str, Any]) -> Protection:
    """Return the protection that a manifest names.

    Raises:
        ValueError: If it is no valid protection.
    """
    described = content["request"].get("protection")
    known = {f"{c.__module__}.{c.__qualname__}" for c in _list_protections()} | {*PARTS}
    for name in _find_classes(described):
        _require(
            isinstance(name, str) and name in known,
            f"{name!r} is no part of a protection; --plugins names modules of your own",
        )
    try:
        return construct(described, Protection)  # type: ignore[type-abstract]
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"request.protection: {error}") from None


def _list_protections() -> list[type[Protection]]:
    return discover("fl_sim.protections", Protection)  # type: ignore[type-abstract]


def _find_classes(described: Any) -> Iterator[Any]:
    """Yield the names of all classes in a description."""
    if isinstance(described, dict):
        yield described.get("class")
    inner = described.values() if isinstance(described, dict) else described
    if isinstance(described, dict | list):
        for value in inner:
            yield from _find_classes(value)


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        RequestError: If it is no regular file, too large, or no JSON.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise RequestError(f"{path} is no plain file")
        if status.st_size > MAX_BYTES:
            raise RequestError(f"{path} is damaged: {status.st_size} bytes are too many")
        return json.loads(path.read_text(encoding="utf-8"))
    except RequestError:
        raise
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def _check(content: Any) -> None:
    """Refuse a manifest whose structure or types are not those that `finish` writes."""
    _require(isinstance(content, dict), "expected an object")
    for name, kind in (("source", str), ("request", dict), ("account", dict), ("images", list)):
        _require(isinstance(content.get(name), kind), f"expected {name} as a {kind.__name__}")
    _require(content.get("version") == VERSION, f"expected version {VERSION}")
    _require(isinstance(content["request"].get("method"), str), "expected request.method as a str")
    _require("\0" not in content["source"], "source is no path")
    for name in ("radius", "clipped", "wall_seconds", "cpu_seconds", "passes_per_image"):
        _require(_is_number(content["account"].get(name)), f"expected account.{name} as a number")
    notes = content.get("notes", [])
    is_text = isinstance(notes, list) and all(isinstance(note, str) for note in notes)
    _require(is_text, "expected notes as a list of str")
    _require(len(content["images"]) > 0, "images is empty")
    entries = [_parse_entry(image) for image in content["images"]]
    names = [entry.name for entry in entries]
    _require(len(set(names)) == len(names), "an image is in it twice")
    parse_protection(content)


def _parse_entry(content: Any) -> ImageEntry:
    """Return an entry of a manifest.

    Raises:
        ValueError: If a type is wrong, or a file is not below the folder.
    """
    names = {field.name for field in fields(ImageEntry)}
    _require(isinstance(content, dict) and set(content) == names, f"an image needs {sorted(names)}")
    for name in ("name", "file", "label", "source_sha256", "sha256"):
        _require(isinstance(content[name], str), f"expected {name} of an image as a str")
    for name in ("name", "file"):
        _require(_is_below(content[name]), f"{content[name]!r} is not below the folder")
    for name in ("source_sha256", "sha256"):
        _require(SHA256.fullmatch(content[name]) is not None, f"{content[name]!r} is no SHA-256")
    is_level = type(content["change"]) is int and 0 <= content["change"] <= 255
    _require(is_level, "expected change as a whole number from 0 to 255")
    psnr, ssim = content["psnr"], content["ssim"]
    _require(psnr is None or _is_number(psnr), "expected psnr as a number or null")
    _require(_is_number(ssim), "expected ssim as a number")
    return ImageEntry(**content)


def _is_below(name: str) -> bool:
    """Return whether a name is a normalised path below a folder."""
    path = PurePosixPath(name)
    plain = "\0" not in name and str(path) == name
    return plain and not path.is_absolute() and ".." not in path.parts and name != "."


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) < 1e300 and math.isfinite(value)


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
