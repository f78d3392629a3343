"""Inputs that `fl-sim protect` refuses before it writes, and the places it may write to."""

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fl_sim.contracts import Protection
from fl_sim.core.errors import RequestError, RunFailedError
from fl_sim.data.sources import MissingDataError
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.publish.check import check_protected
from fl_sim.publish.publish import publish, write_report
from fl_sim.publish.request import Request

RNG = np.random.default_rng(4)


def silent(stage: str, done: int, total: int | None) -> None:
    pass


def put(path: Path, *size: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, size or (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(8):
        put(tmp_path / "in" / "ab"[index % 2] / f"{index}.png")
    return tmp_path / "in"


def request_for(source: Path, **changes: Any) -> Request:
    usual = {"out": source.parent / "out", "protection": RandomNoise(8 / 255)}
    return Request(source, **(usual | changes))


def refused(request: Request, match: str) -> None:
    with pytest.raises(RequestError, match=match) as caught:
        publish(request, silent)
    assert len(str(caught.value).splitlines()) == 1
    assert not request.out.exists()


def test_one_class_is_refused_where_classes_are_told_apart(tmp_path: Path) -> None:
    for index in range(4):
        put(tmp_path / "in" / "alice" / f"{index}.png")
    for form in ("class", "sample"):
        protection = ErrorMinimizing(form=form)  # type: ignore[arg-type]
        refused(request_for(tmp_path / "in", protection=protection), "at least two classes.*alice")
    publish(request_for(tmp_path / "in"), silent)


def test_one_class_of_an_array_file_is_refused_too(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.full(6, 3))
    refused(request_for(tmp_path / "x.npz", protection=ErrorMinimizing()), "at least two classes")


@pytest.mark.parametrize("size", [(2, 2), (1, 30), (3, 9, 3)])
def test_images_too_small_for_the_surrogate_are_refused(
    tmp_path: Path, size: tuple[int, ...]
) -> None:
    for index in range(4):
        put(tmp_path / "in" / "ab"[index % 2] / f"{index}.png", *size)
    wanted = f"images of {size[0]} x {size[1]} do not fit its network small_cnn"
    refused(request_for(tmp_path / "in", protection=ErrorMinimizing()), wanted)


def test_a_radius_below_one_level_is_refused(folder: Path) -> None:
    refused(request_for(folder, protection=RandomNoise(0.9 / 255)), "no pixel would change")


def test_noise_that_changes_nothing_is_a_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = lambda self, images, labels, seed: torch.zeros_like(images)  # noqa: E731
    monkeypatch.setattr(RandomNoise, "noise", nothing)
    with pytest.raises(RunFailedError, match="random changed no pixel of any image"):
        publish(request_for(folder), silent)
    assert list((folder.parent / "out").iterdir()) == []


def test_unchanged_images_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def some(self: Protection, images: Any, labels: Any, seed: int) -> Any:
        return (labels == 0).view(-1, 1, 1, 1) * torch.full_like(images, 8 / 255)

    monkeypatch.setattr(RandomNoise, "noise", some)
    content = publish(request_for(folder), silent)
    assert ("note", "", "4 images are unchanged") in write_report(content)


@pytest.mark.parametrize("parts", [("train", "test"), ("Train", "val"), ("train",)])
def test_noise_is_by_class_and_not_by_split(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        for index in range(6):
            put(tmp_path / "in" / part / "ab"[index % 2] / f"{index}.png")
    content = publish(request_for(tmp_path / "in"), silent)
    assert {entry["label"] for entry in content["images"]} == {"a", "b"}
    assert len(content["images"]) == 6 * len(parts)
    for label in "ab":
        noise = set()
        for path in (tmp_path / "in").rglob(f"{label}/*.png"):
            before = np.array(Image.open(path)).astype(int)
            after = np.array(Image.open(tmp_path / "out" / path.relative_to(tmp_path / "in")))
            change = after.astype(int) - before
            change[(before < 8) | (before > 247)] = 0
            noise.add(int(change[0, 0]) if change[0, 0] else None)
        assert len(noise - {None}) <= 1
    assert check_protected(tmp_path / "out", None, silent).problems == ()


def test_one_split_can_be_protected_by_itself(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for index in range(4):
            put(tmp_path / "in" / part / "ab"[index % 2] / f"{index}.png")
    request = request_for(tmp_path / "in", split="train")
    assert len(publish(request, silent)["images"]) == 4
    assert not (request.out / "test").exists()
    other = request_for(tmp_path / "in", split="val", out=tmp_path / "other")
    refused(other, "--split: one of test, train; got 'val'")


def test_a_linked_image_from_outside_is_not_published(folder: Path) -> None:
    secret = put(folder.parent / "secret.png")
    (folder / "a" / "link.png").symlink_to(secret)
    refused(request_for(folder), "a/link.png is a link out of")
    (folder / "a" / "link.png").unlink()
    labels = folder.parent / "labels.csv"
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"))]
    (folder / "x.png").symlink_to(secret)
    labels.write_text("\n".join(["file,label", "x.png,a", *(f"{name},b" for name in names)]))
    refused(request_for(folder, labels=labels), "x.png is a link")


@pytest.mark.parametrize("name", ["a", "a/0.png", "request.json", "journal.jsonl", ".work", "x"])
def test_nothing_is_written_through_a_link(folder: Path, name: str) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("kept")
    link = folder.parent / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere if name in ("a", ".work") else elsewhere / "file")
    with pytest.raises(RequestError, match=r"--out: .* is a link, and nothing is written through"):
        publish(request_for(folder), silent)
    assert [(path.name, path.read_text()) for path in elsewhere.iterdir()] == [("file", "kept")]


def test_a_link_that_comes_later_is_replaced_and_not_followed(folder: Path) -> None:
    target = folder.parent / "target"
    target.write_text("kept")

    def link(stage: str, done: int, total: int | None) -> None:
        place = folder.parent / "out" / "b" / "1.png"
        if stage == "images written" and done == 1:
            place.parent.mkdir()
            place.symlink_to(target)

    publish(request_for(folder), link)
    assert target.read_text() == "kept"
    assert not (folder.parent / "out" / "b" / "1.png").is_symlink()


def modes_of(out: Path) -> dict[str, int]:
    return {
        path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir() if path.is_file()
    }


def test_files_that_help_to_undo_the_noise_are_private(folder: Path) -> None:
    out, seen = folder.parent / "out", {}

    def look(stage: str, done: int, total: int | None) -> None:
        if stage == "images written":
            seen.update(modes_of(out))

    publish(request_for(folder), look)
    seen.update(modes_of(out))
    private = {"manifest.json", "request.json", "journal.jsonl", "noise.safetensors"}
    assert set(seen) == private
    assert set(seen.values()) == {0o600}
    assert stat.S_IMODE((out / "a" / "0.png").stat().st_mode) & 0o044


def test_names_that_differ_in_case_alone_are_refused(folder: Path) -> None:
    put(folder / "A" / "0.png")
    refused(request_for(folder), "A/0.png and a/0.png would both become a/0.png")


def test_grey_profiles_are_refused_beside_colour(folder: Path) -> None:
    profile = bytearray(132)
    profile[16:20] = b"GRAY"
    put(folder / "a" / "0.png", icc_profile=bytes(profile))
    publish(request_for(folder), silent)
    put(folder / "b" / "9.png", 8, 8, 3)
    other = request_for(folder, out=folder.parent / "other")
    refused(other, "a/0.png has a grey colour profile")


def test_other_files_are_named_in_the_notes(folder: Path) -> None:
    (folder / "README.txt").write_text("")
    content = publish(request_for(folder), silent)
    assert ("note", "", "1 other file (README.txt) left out") in write_report(content)
    (folder / "a" / "0.heic").write_bytes(b"")
    refused(request_for(folder, out=folder.parent / "other"), "a/0.heic .* cannot be read")


def test_other_arrays_are_copied_unread(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    objects = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(6) % 2, more=objects)
    publish(request_for(tmp_path / "x.npz", protection=LinearSeparable()), silent)
    before, after = np.load(tmp_path / "x.npz"), np.load(tmp_path / "out" / "x.npz")
    assert before.files == after.files
    with before.zip.open("more.npy") as one, after.zip.open("more.npy") as other:
        assert one.read() == other.read()


def test_a_csv_in_the_folder_gives_the_labels(tmp_path: Path) -> None:
    for index in range(4):
        put(tmp_path / "in" / f"{index}.bmp")
    rows = [f"{index}.bmp,{'ab'[index % 2]},o{index}" for index in range(4)]
    (tmp_path / "in" / "labels.csv").write_text("\n".join(["file,label,owner", *rows]))
    publish(request_for(tmp_path / "in"), silent)
    text = (tmp_path / "out" / "labels.csv").read_text()
    assert text == "file,label,owner\n" + "".join(f"{row}\n" for row in rows).replace("bmp", "png")
    assert check_protected(tmp_path / "out", None, silent).problems == ()


def test_a_damaged_image_in_a_split_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        put(tmp_path / "in" / part / "a" / "0.png")
    (tmp_path / "in" / "val" / "a" / "1.png").write_bytes(b"")
    with pytest.raises(MissingDataError, match=r"corrupt image .*val/a/1.png"):
        publish(request_for(tmp_path / "in"), silent)


def test_a_journal_of_another_format_is_made_again(folder: Path) -> None:
    def cut(stage: str, done: int, total: int | None) -> None:
        if stage == "images written" and done == 4:
            raise KeyboardInterrupt

    request = request_for(folder)
    with pytest.raises(KeyboardInterrupt):
        publish(request, cut)
    journal = request.out / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line]
    lines[0]["file"] = "../../x"
    lines[1]["change"] = "8"
    journal.write_text("\n".join(["[]", "3", *map(json.dumps, lines)]))
    publish(request, silent)
    assert check_protected(request.out, None, silent).problems == ()
