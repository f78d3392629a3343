"""User's folders: splits, labels and links are read as intended, or refused in one line."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from fl_sim.core.errors import FieldError
from fl_sim.data import image_files
from fl_sim.data.folders import read_folder
from fl_sim.data.image_files import decode
from fl_sim.data.scaling import resize
from fl_sim.data.sources import MissingDataError, ReadOptions, hash_dataset, load_dataset
from fl_sim.data.splits import parse_split

RNG = np.random.default_rng(2)


def put(path: Path, *size: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, size or (6, 6), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def fill(root: Path, *tops: str, count: int = 3, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for top in tops or ("",):
        for label in classes:
            for index in range(count):
                put(root / top / label / f"{index}.png")
    return root


def refused(root: Path, match: str, **options: Any) -> None:
    with pytest.raises(MissingDataError, match=match) as caught:
        load_dataset("image_folder", str(root), ReadOptions(**options))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("tops", "note"),
    [
        (("train", "test"), ""),
        (("Training", "Testing"), ""),
        (("TRAIN", "evaluation"), ""),
        (("train_set", "test images"), ""),
        (("train", "val"), "tested on the validation split"),
        (("train", "Valid"), "tested on the validation split"),
        (("train", "validation", "test"), "validation split is not read"),
    ],
)
def test_splits_have_their_usual_names(tmp_path: Path, tops: tuple[str, ...], note: str) -> None:
    for top, count in zip(tops, (4, 2, 1), strict=False):
        fill(tmp_path, top, count=count)
    dataset = load_dataset("image_folder", str(tmp_path))
    assert dataset.class_names == ("cat", "dog")
    tested = {"test": 1, "val": 2}["test" if len(tops) == 3 else "val"]
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (8, 2 * tested)
    assert note in "; ".join(dataset.notes)
    assert bool(dataset.notes) == bool(note)


def test_train_alone_is_split(tmp_path: Path) -> None:
    dataset = load_dataset("image_folder", str(fill(tmp_path, "train", count=5)))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.test_labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (("test/a/1.png", "cat/2.png", "dog/2.png"), "unclear: .* test, which may be a split or"),
        (("train/a/1.png", "Training/a/1.png"), "unclear: .* two are the same split"),
        (("train/1.png", "train/2.png"), "unclear: .* without class folders in the split train"),
        (("train/a/1.png", "test/1.png"), "unclear: .* without class folders in the split test"),
        (("a/train/1.png", "a/test/1.png", "b/train/2.png"), "unclear: .*folders=label/split"),
        (("test/a/1.png", "test/a/2.png"), "needs a split to train on"),
        (("val/a/1.png", "test/a/2.png"), "needs a split to train on"),
        (("x_train/a/1.png", "x_test/a/2.png"), "x_test and x_train, which may be splits"),
        (("trainA/1.png", "testA/2.png"), "testA and trainA, which may be splits"),
        (("seg_train/seg_train/a/1.png", "seg_test/seg_test/a/1.png"), "seg_test and seg_train"),
        (("cifar-train-32/a/1.png", "cifar-val-32/a/1.png"), "which may be splits or classes"),
        (("trainset1/a/1.png", "02 TESTSET/a/1.png"), "which may be splits or classes"),
        (("images/a/1.png", "images/b/2.png"), r"the same folders \(a, b\) in each top folder"),
        (("fold0/a/1.png", "fold0/b/1.png", "fold1/a/1.png", "fold1/b/1.png"), "the same folders"),
        (
            ("train/a/1.png", "train/b/1.png", "val/images/1.png"),
            r"no label of the val split in .*",
        ),
    ],
)
def test_ambiguous_folders_are_refused(tmp_path: Path, files: tuple[str, ...], match: str) -> None:
    for name in files:
        put(tmp_path / name)
    refused(tmp_path, match)


@pytest.mark.parametrize(
    "tops",
    [
        ("contest", "restrained"),
        ("testudo", "valley"),
        ("trains", "planes"),
        ("detest", "interval"),
    ],
)
def test_classes_that_merely_sound_like_splits_are_classes(
    tmp_path: Path, tops: tuple[str, str]
) -> None:
    fill(tmp_path, classes=tops)
    assert load_dataset("image_folder", str(tmp_path)).class_names == tuple(sorted(tops))


def test_images_of_each_class_in_folders_by_patient_are_of_the_class(tmp_path: Path) -> None:
    for name in ("ill/p1/1.png", "ill/p2/1.png", "well/p3/1.png", "well/p4/1.png"):
        put(tmp_path / name)
    assert load_dataset("image_folder", str(tmp_path)).class_names == ("ill", "well")


def test_levels_can_be_named(tmp_path: Path) -> None:
    for label in ("train", "test", "cat"):
        for index in range(3):
            put(tmp_path / "a" / label / f"{index}.png")
    fill(tmp_path / "b", classes=("train", "test", "cat"))
    said = ReadOptions(folders="label")
    assert load_dataset("image_folder", str(tmp_path / "b"), said).class_names == (
        "cat",
        "test",
        "train",
    )
    listing = read_folder(tmp_path, folders="owner/label")
    assert {(image.owner, image.label) for image in listing.files} >= {("a", "train"), ("b", "cat")}
    with pytest.raises(FieldError, match=r"folders: label, and split and owner"):
        read_folder(tmp_path, folders="class")
    refused(tmp_path, "lies in 2 folders; folders=split/owner/label", folders="split/owner/label")
    refused(tmp_path, "a is no split", folders="split/label")
    with pytest.raises(FieldError, match=r"data.folders: None but for folders"):
        load_dataset("digits", None, said)


def test_a_split_is_known_by_its_name() -> None:
    assert [parse_split(n) for n in ("Val", "DEV", "testing-set", "tester", "")] == [
        "val",
        "val",
        "test",
        "",
        "",
    ]


@pytest.mark.parametrize(("classes", "count"), [(2, 6), (20, 3), (3, 2), (2, 50)])
def test_every_class_is_in_both_splits(tmp_path: Path, classes: int, count: int) -> None:
    names = tuple(f"c{i:02}" for i in range(classes))
    dataset = load_dataset("image_folder", str(fill(tmp_path, classes=names, count=count)))
    tested = max(1, round(0.2 * count))
    assert dataset.test_labels.bincount().tolist() == [tested] * classes
    assert dataset.train_labels.bincount().tolist() == [count - tested] * classes


def test_the_only_image_of_a_class_is_trained_on(tmp_path: Path) -> None:
    put(fill(tmp_path) / "elk" / "0.png")
    dataset = load_dataset("image_folder", str(tmp_path))
    assert dataset.train_labels.bincount().tolist() == [2, 2, 1]
    assert dataset.test_labels.tolist() == [0, 1]


def test_another_class_does_not_move_the_split_of_the_first(tmp_path: Path) -> None:
    first = load_dataset("image_folder", str(fill(tmp_path, count=10)))
    for index in range(7):
        put(tmp_path / "ant" / f"{index}.png")
    second = load_dataset("image_folder", str(tmp_path))
    assert torch.equal(second.test_images[second.test_labels > 0], first.test_images)


def test_files_left_out_are_counted_and_named(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "README.txt").write_text("")
    (tmp_path / "cat" / ".DS_Store").write_text("")
    (tmp_path / "cat" / "Thumbs.db").write_text("")
    put(tmp_path / "cat" / "more" / "deep.PNG")
    text = "; ".join(load_dataset("image_folder", str(tmp_path)).notes)
    assert "2 hidden files (cat/.DS_Store, ...) left out" in text
    assert "1 other file (README.txt) left out" in text
    assert "1 image (cat/more/deep.PNG) in folders below those of the classes" in text


@pytest.mark.parametrize(
    "name",
    [
        "cat/1.xml",
        "notes.json",
        "paper.pdf",
        "checksums.md5",
        "classes.names",
        "read.py",
        "Desktop.ini",
        "cat/ehthumbs.db",
        "Icon\r",
        "@eaDir/cat/1.png",
        "System Volume Information/x",
        "__MACOSX/cat/._1.png",
        "LICENSE",
    ],
)
def test_files_that_accompany_images_are_left_out_and_change_no_hash(
    tmp_path: Path, name: str
) -> None:
    fill(tmp_path)
    before = load_dataset("image_folder", str(tmp_path))
    content = hash_dataset("image_folder", str(tmp_path))
    put(tmp_path / name, format="png")
    after = load_dataset("image_folder", str(tmp_path))
    assert torch.equal(after.train_images, before.train_images)
    assert len(after.notes) == len(before.notes) + 1
    assert "/" in name or hash_dataset("image_folder", str(tmp_path)) == content


@pytest.mark.parametrize("name", ["cat/x.heic", "cat/raw.NEF", "cat/no_suffix", "cat/x.zip"])
def test_unreadable_images_are_named(tmp_path: Path, name: str) -> None:
    fill(tmp_path)
    (tmp_path / name).write_bytes(b"12345")
    refused(tmp_path, f"{name} in .* cannot be read as an image")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside.png")
    root = fill(tmp_path / "in")
    for target, match in (
        (outside, "cat/link.png is a link out of"),
        (tmp_path / "nothing", "cat/link.png is a link that leads nowhere"),
        (root / "cat" / "link.png", "cat/link.png is a link that leads nowhere"),
        (root / "dog", "cat/link.png is a link to a folder"),
        (root, "cat/link.png is a link to a folder"),
    ):
        link = root / "cat" / "link.png"
        link.symlink_to(target)
        refused(root, match)
        link.unlink()
    (root / "elk").symlink_to(tmp_path)
    refused(root, "elk is a link out of")


def test_a_link_to_an_image_inside_counts_as_a_copy(tmp_path: Path) -> None:
    (fill(tmp_path) / "dog" / "link.png").symlink_to(tmp_path / "cat" / "0.png")
    dataset = load_dataset("image_folder", str(tmp_path))
    assert len(dataset.train_labels) + len(dataset.test_labels) == 7
    assert "2 files (" in "; ".join(dataset.notes)
    assert "with the same content under two labels" in "; ".join(dataset.notes)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(fill(tmp_path) / "cat" / "x.png")
    refused(tmp_path, "cat/x.png .* is no file")


def test_a_name_that_is_no_text_is_refused_on_one_line(tmp_path: Path) -> None:
    os.rename(fill(tmp_path) / "cat" / "0.png", os.fsencode(tmp_path) + b"/cat/\xff.png")
    refused(tmp_path, r"the name of cat/\\udcff.png in .* is no UTF-8")
    os.rename(os.fsencode(tmp_path) + b"/cat/\xff.png", tmp_path / "cat" / "a\nb.heic")
    refused(tmp_path, r"a\\nb.heic in .* cannot be read")


def table(root: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


ROWS = "file,label\nx/1.png,Käfer\nx/2.png,Ähre\n"


@pytest.mark.parametrize(
    "content",
    [
        ROWS.encode(),
        ROWS.encode("utf-8-sig"),
        ROWS.encode("utf-16"),
        ROWS.replace(",", ";").encode(),
        ROWS.replace(",", "\t").encode(),
        ROWS.replace("\n", "\r\n").encode(),
        ROWS.replace("file,label", ' File , "Label"').encode(),
        ROWS.replace("1.png,", "1.png, ").encode(),
    ],
    ids=["utf-8", "mark", "utf-16", "semicolon", "tab", "windows", "capitals", "space"],
)
def test_a_csv_is_read_in_any_usual_encoding(tmp_path: Path, content: bytes) -> None:
    for index in (1, 2):
        put(tmp_path / "x" / f"{index}.png")
    table(tmp_path, content)
    assert [image.label for image in read_folder(tmp_path).files] == ["Käfer", "Ähre"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (ROWS.encode("latin-1"), "byte .* is no UTF-8; save it as UTF-8"),
        ("file,label\nx/1.png,a\n", "image without a label: 1 file .x/2.png. in .* not name"),
        (ROWS + "x/1.png,b\n", "line 4: x/1.png has a label already"),
        (ROWS + "x/./1.png,b\n", "line 4: x/1.png has a label already"),
        (ROWS + "x/3.png,b\n", "line 4: no file .*3.png"),
        (ROWS + "../out.png,b\n", "line 4: ../out.png is not below"),
        (ROWS + "/etc/passwd,b\n", "line 4: /etc/passwd is not below"),
        (ROWS + "x,b\n", "line 4: no file"),
        (ROWS + "x/1.png,a,b\n", "line 4: expected 2 fields"),
        (ROWS + "x/1.png\n", "line 4: expected 2 fields"),
        (ROWS + ",b\n", "line 4: expected the columns"),
        ('file,label\n"x/1.png,a\n', "line 2: unexpected end of data"),
        ("file,label,label\n", "line 1: expected the columns"),
        ("file;name\n", "line 1: expected the columns"),
        ("", "line 1: expected the columns"),
        ("file,label,split\nx/1.png,a,train\nx/2.png,a,x\n", "line 3: x is no split"),
        ("file,label,owner\nx/1.png,a,b\nx/2.png,a,\n", "line 3: the column owner is empty"),
    ],
)
def test_an_invalid_csv_is_refused_by_its_line(
    tmp_path: Path, content: str | bytes, match: str
) -> None:
    put(tmp_path / "out.png")
    for index in (1, 2):
        put(tmp_path / "in" / "x" / f"{index}.png")
    with pytest.raises(MissingDataError, match=match) as caught:
        read_folder(tmp_path / "in", table(tmp_path, content, "mine.csv"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_csv_gives_splits_and_owners(tmp_path: Path) -> None:
    rows = [(f"{i}.png", "ab"[i % 2], ("train", "Test")[i > 5], f"o{i % 3}", "x") for i in range(9)]
    for name, *_ in rows:
        put(tmp_path / name)
    head = ("file", "label", "split", "owner", "camera")
    table(tmp_path, "\n".join(",".join(row) for row in [head, *rows]))
    dataset = load_dataset("image_folder", str(tmp_path))
    assert dataset.train_labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert dataset.train_owners is not None
    assert dataset.train_owners.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.owner_names == ("o0", "o1", "o2")
    assert dataset.notes == ("columns not read: camera",)


def test_another_csv_beside_class_folders_gives_no_labels(tmp_path: Path) -> None:
    table(fill(tmp_path), "id,breed\n1,cat\n")
    assert load_dataset("image_folder", str(tmp_path)).class_names == ("cat", "dog")


def png(colour: int, depth: int, channels: int) -> bytes:
    """Return a PNG of 4 x 4 black pixels in a mode that few libraries write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows = (b"\0" + bytes(-(-4 * channels * depth // 8))) * 4
    header = struct.pack(">IIBBBBB", 4, 4, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(mode: str, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (4, 4)).save(file, kind, **options)
    return file.getvalue()


FRAMES = [Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(3)]


def moving(kind: str) -> bytes:
    file = io.BytesIO()
    FRAMES[0].save(file, kind, save_all=True, append_images=FRAMES[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (png(0, 16, 1), "more than 8 bits"),
        (png(2, 16, 3), "more than 8 bits"),
        (png(4, 16, 2), "more than 8 bits"),
        (png(6, 16, 4), "more than 8 bits"),
        (b"P6\n4 4\n65535\n" + bytes(96), "more than 8 bits"),
        (b"P5\n4 4\n1023\n" + bytes(32), "more than 8 bits"),
        (saved("I;16", "TIFF"), "more than 8 bits"),
        (saved("F", "TIFF"), "more than 8 bits"),
        (saved("CMYK", "JPEG"), "colour model CMYK"),
        (saved("CMYK", "TIFF"), "colour model CMYK"),
        (saved("LAB", "TIFF"), "colour model LAB"),
        (saved("YCbCr", "TIFF"), "colour model YCbCr"),
        (moving("GIF"), "3 frames"),
        (moving("PNG"), "3 frames"),
        (moving("TIFF"), "3 frames"),
        (moving("WEBP"), "3 frames"),
        (moving("MPO"), "3 frames"),
        (b"", "corrupt image some.png: "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "corrupt image"),
        (saved("RGB", "PNG")[:-20], "corrupt image"),
        (saved("RGB", "JPEG")[:200], "corrupt image"),
    ],
)
def test_images_that_eight_bits_cannot_hold_are_refused_by_name(content: bytes, match: str) -> None:
    with pytest.raises(MissingDataError, match=f"some.png.*{match}|{match}.*some.png|{match}"):
        decode(content, "some.png")


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_fewer_bits_become_eight_without_loss(depth: int) -> None:
    assert decode(png(0, depth, 1), "some.png").pixels.shape == (1, 4, 4)


def test_a_palette_becomes_its_colours() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    file = io.BytesIO()
    image.save(file, "PNG")
    assert decode(file.getvalue(), "x").pixels[:, 0, 0].tolist() == [10, 20, 30]


def test_more_pixels_than_fit_are_refused_before_any_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (20_000, 20_000)).save(fill(tmp_path) / "cat" / "large.png")
    refused(tmp_path, "large.png is too large")
    (tmp_path / "cat" / "large.png").unlink()
    monkeypatch.setattr(image_files, "MAX_BYTES", 36 * 5)
    decoded: list[str] = []
    monkeypatch.setattr(image_files, "decode", lambda content, name: decoded.append(name))
    refused(tmp_path, "take 0 MiB once they are decoded")
    assert decoded == []


def test_transparent_images_are_refused_and_opaque_ones_are_not(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (6, 6, 4), dtype=np.uint8)
    pixels[:, :, 3] = 255
    Image.fromarray(pixels).save(fill(tmp_path) / "cat" / "9.png")
    assert load_dataset("image_folder", str(tmp_path)).train_images.shape[1] == 3
    pixels[0, 0, 3] = 254
    Image.fromarray(pixels).save(tmp_path / "cat" / "9.png")
    refused(tmp_path, "cat/9.png is transparent in places")


def test_a_colour_profile_is_noted_where_it_is_not_srgb(tmp_path: Path) -> None:
    def profile(name: str) -> bytes:
        return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()

    put(fill(tmp_path) / "cat" / "7.png", 6, 6, 3, icc_profile=profile("sRGB"))
    notes = load_dataset("image_folder", str(tmp_path)).notes
    assert [note.split(" (")[0] for note in notes] == ["6 grey images"]
    put(tmp_path / "cat" / "8.png", 6, 6, 3, icc_profile=profile("XYZ"))
    assert "profile is not sRGB" in load_dataset("image_folder", str(tmp_path)).notes[1]


def test_images_of_mixed_size_are_scaled(tmp_path: Path) -> None:
    for index in range(4):
        put(tmp_path / "a" / f"{index}.png", 20 + index, 30, 3)
        put(tmp_path / "b" / f"{index}.png", 12, 9 + index)
    refused(tmp_path, "images of one size are needed.*; or set data.side, such as 64")
    dataset = load_dataset("image_folder", str(tmp_path), ReadOptions(side=16))
    assert dataset.train_images.shape == (6, 3, 16, 16)
    known = {
        resize(decode(path.read_bytes(), "").pixels[None], 16)
        .expand(1, 3, -1, -1)
        .numpy()
        .tobytes()
        for path in tmp_path.rglob("*.png")
    }
    assert {image.numpy().tobytes() for image in dataset.train_images} <= known


def test_any_dataset_can_be_scaled() -> None:
    digits = load_dataset("digits", None, ReadOptions(side=16))
    assert digits.train_images.shape == (1437, 1, 16, 16)
    assert torch.equal(digits.test_images, resize(load_dataset("digits").test_images, 16))
    assert resize(digits.train_images[:0], 8).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("make", [lambda root: fill(root, classes=("a",))])
def test_a_dataset_of_one_class_is_read(make: Callable[[Path], Path], tmp_path: Path) -> None:
    assert load_dataset("image_folder", str(make(tmp_path))).num_classes == 1


@pytest.mark.parametrize("pair", [("A", "a"), ("a ", "a"), ("caf\u00e9", "cafe\u0301")])
def test_labels_that_look_the_same_are_noted(tmp_path: Path, pair: tuple[str, str]) -> None:
    fill(tmp_path / "in", classes=pair)
    notes = load_dataset("image_folder", str(tmp_path / "in")).notes
    assert any(note.endswith("are classes of their own") for note in notes)


def test_labels_without_column_names_are_mentioned(tmp_path: Path) -> None:
    put(tmp_path / "1.png")
    refused(tmp_path, "or give a CSV of labels")
    (tmp_path / "labels.csv").write_text("name,class\n1.png,a\n")
    refused(tmp_path, "begin labels.csv with file,label")
