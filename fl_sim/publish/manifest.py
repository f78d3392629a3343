"""What was done to which file: the manifest, and the journal it is made of.

While work goes on, each finished image is one line of journal.jsonl; at the end, all of them are
in manifest.json.
"""

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fl_sim.errors import RequestError
from fl_sim.publish.request import write_whole, writing

MANIFEST, JOURNAL, STARTED = "manifest.json", "journal.jsonl", "request.json"
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One protected image.

    Attributes:
        name: of the input, below its folder; of an .npz file, the split and the index.
        file: of the output, below its folder.
        label: of both.
        source_sha256: of the input file; of an .npz file, of the image's pixels.
        sha256: of the output file; of an .npz file, of the image's pixels.
        change: largest change of a pixel, in levels of 255.
        psnr, ssim: between input and output; psnr is None where nothing changed.
    """

    name: str
    file: str
    label: str
    source_sha256: str
    sha256: str
    change: int
    psnr: float | None
    ssim: float


def sha256(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()


def begin(out: Path, started: dict[str, Any]) -> dict[str, Entry]:
    """Note what is asked for, and return what an interrupted call of the same has finished.

    Raises:
        RequestError: where the folder holds something else.
    """
    noted = out / STARTED
    if noted.exists():
        if json.loads(noted.read_text()) != started:
            raise RequestError(
                f"--out: {out} holds the result of other images or settings; choose another folder"
            )
        return read_entries(out)
    others = [path.name for path in out.iterdir()]
    if others:
        raise RequestError(f"--out: {out} is not empty and holds no manifest; it has {others[0]}")
    write_whole(noted, (json.dumps(started, indent=2) + "\n").encode())
    return {}


def read_entries(out: Path) -> dict[str, Entry]:
    """Return the finished images by name; a torn line of the journal does not count."""
    if (out / MANIFEST).exists():
        content = read(out)
        return {entry["name"]: Entry(**entry) for entry in content["images"]}
    if not (out / JOURNAL).exists():
        return {}
    entries = {}
    for line in (out / JOURNAL).read_text().splitlines():
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        entries[entry.name] = entry
    return entries


def append(out: Path, entry: Entry) -> None:
    """Add a finished image to the journal, on a line of its own whatever came before.

    Raises:
        RunFailedError: for a full disk.
    """
    with writing(out / JOURNAL), (out / JOURNAL).open("a") as file:
        file.write("\n" + json.dumps(asdict(entry)))


def finish(out: Path, content: dict[str, Any], entries: list[Entry]) -> None:
    """Write the manifest, and drop the journal."""
    images = [asdict(entry) for entry in entries]
    whole = {
        "version": VERSION,
        "fl_sim": importlib.metadata.version("fl-sim"),
        **content,
        "images": images,
    }
    write_whole(out / MANIFEST, (json.dumps(whole, indent=1) + "\n").encode())
    (out / JOURNAL).unlink(missing_ok=True)


def read(out: Path) -> dict[str, Any]:
    """Return the manifest of a folder.

    Raises:
        RequestError: where there is none that can be read.
    """
    path = out / MANIFEST
    if not path.exists():
        unfinished = (out / STARTED).exists()
        hint = "the same command as before finishes it" if unfinished else "nothing was made here"
        raise RequestError(f"there is no {path}: {hint}")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        [Entry(**entry) for entry in content["images"]]
    except (ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{path} is damaged: {error}") from None
    return content
