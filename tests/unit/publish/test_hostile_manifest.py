"""Hostile manifests: refused in one line, and nothing outside the folder is read."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fl_sim.core.atomic_io import hash_bytes
from fl_sim.core.errors import RequestError
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.publish import manifest
from fl_sim.publish.check import check_protected, describe_result
from fl_sim.publish.publish import publish
from fl_sim.publish.request import Request


def silent(stage: str, done: int, total: int | None) -> None:
    pass


@pytest.fixture
def out(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    for index in range(4):
        path = tmp_path / "in" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    publish(Request(tmp_path / "in", tmp_path / "out", RandomNoise(8 / 255)), silent)
    return tmp_path / "out"


def change(out: Path, path: str, value: Any) -> None:
    content = json.loads((out / "manifest.json").read_text())
    place, *rest = content, *path.split(".")
    for name in rest[:-1]:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(rest[-1]) if isinstance(place, list) else rest[-1]] = value
    (out / "manifest.json").write_text(json.dumps(content))


NONE_OF_US = "subprocess.Popen"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("source", 5),
        ("source", "a\0b"),
        ("request", []),
        ("request", {"method": "em"}),
        ("request.protection", None),
        ("request.protection", "em"),
        ("request.protection.class", NONE_OF_US),
        ("request.protection.class", "fl_sim.__main__.X"),
        ("request.protection.class", 7),
        ("request.protection.class", ["x"]),
        ("request.protection.radius", "8"),
        ("request.protection.radius", -1),
        ("request.protection.radius", 1e400),
        ("request.protection.radius", float("nan")),
        ("request.protection.more", 1),
        ("request.method", {}),
        ("account", None),
        ("account.radius", []),
        ("account.clipped", float("inf")),
        ("notes", "text"),
        ("images", {}),
        ("images", []),
        ("images", [[]]),
        ("images.0", None),
        ("images.0.more", 1),
        ("images.0.name", 5),
        ("images.0.name", "../../x"),
        ("images.0.file", "../../x"),
        ("images.0.file", "a/../../x"),
        ("images.0.file", "/etc/passwd"),
        ("images.0.file", ""),
        ("images.0.file", "."),
        ("images.0.file", "a//0.png"),
        ("images.0.file", None),
        ("images.0.label", 3),
        ("images.0.sha256", "abc"),
        ("images.0.sha256", 5),
        ("images.0.change", "8"),
        ("images.0.change", True),
        ("images.0.change", 10**30),
        ("images.0.psnr", "x"),
        ("images.0.ssim", None),
        ("images.1.name", "a/0.png"),
    ],
)
def test_wrong_types_are_refused_in_one_line(out: Path, path: str, value: Any) -> None:
    change(out, path, value)
    with pytest.raises(RequestError, match=r"manifest.json is damaged: ") as caught:
        check_protected(out, None, silent)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("source", ["\ud800", "a" * 5000, "x/" * 5000])
def test_originals_in_a_place_that_cannot_be_are_not_compared(out: Path, source: str) -> None:
    change(out, "source", source)
    verdict = check_protected(out, None, silent)
    assert (verdict.compared, verdict.problems) == (False, ())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b"\xff\xfe{}",
        b"{" * 5000,
        b"[" * 200_000,
        b"9" * 6000,
        b'{"a": NaN',
        b"\0",
    ],
    ids=lambda content: repr(content[:6]),
)
def test_an_invalid_manifest_is_refused_in_one_line(out: Path, content: bytes) -> None:
    (out / "manifest.json").write_bytes(content)
    with pytest.raises(RequestError, match=r"manifest.json is damaged: "):
        check_protected(out, None, silent)


def test_a_manifest_that_is_no_plain_file_is_refused(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "MAX_BYTES", 10)
    with pytest.raises(RequestError, match=r"bytes are too many"):
        check_protected(out, None, silent)
    (out / "manifest.json").rename(out / "other.json")
    (out / "manifest.json").symlink_to(out / "other.json")
    with pytest.raises(RequestError, match=r"is no plain file"):
        check_protected(out, None, silent)
    (out / "manifest.json").unlink()
    os.mkfifo(out / "manifest.json")
    with pytest.raises(RequestError, match=r"is no plain file"):
        check_protected(out, None, silent)


def test_links_are_not_followed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "a" / "0.png").rename(out.parent / "outside.png")
    (out / "a" / "0.png").symlink_to(out.parent / "outside.png")
    (out / "more").symlink_to(out.parent)
    read: list[Path] = []
    real: Callable[[Path], bytes] = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))  # type: ignore[func-returns-value]
    problems = check_protected(out, None, silent).problems
    assert problems == ("a/0.png is missing", "a/0.png is a link", "more is a link")
    assert out.parent / "outside.png" not in [path.resolve() for path in read]


def test_an_original_that_is_a_link_is_not_read(out: Path) -> None:
    original = out.parent / "in" / "a" / "0.png"
    original.rename(out.parent / "outside.png")
    original.symlink_to(out.parent / "outside.png")
    (problem,) = check_protected(out, None, silent).problems
    assert "a/0.png is missing" in problem


def test_a_forged_radius_is_reported_as_a_claim(out: Path) -> None:
    change(out, "request.protection.radius", 1.0)
    verdict = check_protected(out, None, silent)
    assert (verdict.measured, verdict.claimed, verdict.radius) == (8, 8, 255.0)
    text = " ".join(describe_result(verdict))
    assert "measured against the originals in" in text
    assert "every change is at most 8/255; the manifest claims a radius of 255/255" in text


def test_a_forged_change_is_a_problem(out: Path) -> None:
    change(out, "images.0.change", 3)
    (problem,) = check_protected(out, None, silent).problems
    assert problem.endswith("levels, not by 3 as the manifest claims")


def test_without_originals_nothing_is_reported_as_measured(out: Path) -> None:
    (out.parent / "in").rename(out.parent / "moved")
    verdict = check_protected(out, None, silent)
    assert (verdict.compared, verdict.measured) == (False, -1)
    text = " ".join(describe_result(verdict))
    assert "not measured: give the originals" in text
    assert "no evidence" in text


def test_a_forged_label_is_a_problem(out: Path) -> None:
    change(out, "images.0.label", "cat")
    assert check_protected(out, None, silent).problems == ("a/0.png has the label a, not cat",)


def test_unprotected_images_are_a_problem(out: Path) -> None:
    content = json.loads((out / "manifest.json").read_text())
    for entry in content["images"]:
        original = (out.parent / "in" / entry["name"]).read_bytes()
        (out / entry["file"]).write_bytes(original)
        entry |= {"sha256": hash_bytes(original), "change": 0}
    (out / "manifest.json").write_text(json.dumps(content))
    problems = check_protected(out, None, silent).problems
    assert problems == ("no pixel differs from the originals: nothing is protected",)
