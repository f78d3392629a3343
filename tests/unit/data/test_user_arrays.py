"""User's arrays: only needed arrays are read, after their headers; labels are never cast."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_sim.data import arrays as reading
from fl_sim.data import image_files
from fl_sim.data.sources import MissingDataError, ReadOptions, load_dataset

RNG = np.random.default_rng(3)


def written(path: Path, prefix: str = "{}_{}", **changed: Any) -> str:
    usual = {
        prefix.format(part, kind): value
        for part, count in (("train", 6), ("test", 4))
        for kind, value in (
            ("images", RNG.integers(0, 256, (count, 5, 5), dtype=np.uint8)),
            ("labels", np.arange(count) % 2),
        )
    }
    np.savez(path / "x.npz", **{k: v for k, v in (usual | changed).items() if v is not None})
    return str(path / "x.npz")


def refused(path: str, match: str) -> None:
    with pytest.raises(MissingDataError, match=match) as caught:
        load_dataset("npz", path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 0, 1, 0, 10**12]),
        np.array([0, 1, 0, 1, 0, 2**63 + 1], dtype=np.uint64),
        np.array([0, 1, 0, 1, 0, -1]),
        np.array([0.0, 1, 0, 1, 0, 1]),
        np.array([0, 1, 0, 1, 0, 1], dtype=bool),
        np.array(list("010101")),
        np.array([0, 1, 0, 1, 0, 1], dtype=complex),
        np.array([0, 1, 0, 1, 0, 1], dtype="datetime64[s]"),
        np.arange(12).reshape(6, 2) % 2,
        np.arange(6).reshape(1, 6) % 2,
        np.arange(5) % 2,
        np.zeros((6, 0), int),
        np.array(3),
    ],
    ids=str,
)
def test_labels_that_are_no_numbers_of_classes_are_refused(tmp_path: Path, labels: Any) -> None:
    refused(written(tmp_path, train_labels=labels), "expected train_labels as 6 whole numbers")


def test_other_names_of_splits_are_known(tmp_path: Path) -> None:
    for prefix in ("{}_{}", "{}ing_{}", "{}{}"):
        assert len(load_dataset("npz", written(tmp_path, prefix)).test_labels) == 4
    content = np.load(written(tmp_path))
    names = {"images": "x_{}", "labels": "y_{}"}
    keras = {names[n.split("_")[1]].format(n.split("_")[0]): content[n] for n in content.files}
    np.savez(tmp_path / "keras.npz", **keras)
    assert len(load_dataset("npz", str(tmp_path / "keras.npz")).train_labels) == 6
    images, labels = content["train_images"], content["train_labels"]
    np.savez(tmp_path / "plain.npz", images=images, labels=labels)
    plain = load_dataset("npz", str(tmp_path / "plain.npz"))
    assert plain.test_labels.tolist() == [0, 1]
    assert plain.notes == ("a fifth of each class set apart for testing",)
    twice = written(tmp_path, Train_images=images, Train_labels=labels)
    refused(twice, "unclear: train_images and Train_images in .* are the same split")


def test_unneeded_arrays_are_not_read(tmp_path: Path) -> None:
    """Arrays of objects or of other types are ignored if they are not needed."""
    other = {"val_images": np.zeros((2, 3)), "names": np.array([{}, None])}
    dataset = load_dataset("npz", written(tmp_path, **other))
    assert dataset.notes == ("val_images not read",)


def test_classes_without_an_image_are_noted(tmp_path: Path) -> None:
    dataset = load_dataset("npz", written(tmp_path, train_labels=np.array([0, 1, 0, 1, 0, 7])))
    assert dataset.num_classes == 8
    assert dataset.notes == ("5 of 8 classes without a training image",)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"train_images": np.zeros((6, 3, 9, 3), np.uint8)}, "whose channels are clear"),
        (
            {"train_images": np.zeros((0, 5, 5), np.uint8), "train_labels": np.zeros(0, int)},
            "empty",
        ),
        ({"test_images": np.zeros((4, 5, 5, 3), np.uint8)}, r"differ in size: \(1, 5, 5\) and"),
        ({"train_images": np.zeros((6, 5, 5), np.int8)}, "expected train_images as uint8"),
        ({"train_images": np.zeros((6, 5, 5), object)}, "expected train_images as uint8"),
    ],
)
def test_images_of_another_type_are_refused(
    tmp_path: Path, changed: dict[str, Any], match: str
) -> None:
    refused(written(tmp_path, **changed), match)


def header_of(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def test_sizes_that_are_only_declared_are_not_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more_images.npy", header_of((2**40, 100, 100)))
    refused(path, "more_images declares 10995116277760000 bytes and holds")
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    monkeypatch.setattr(reading.npy, "read_array", lambda *args, **options: 1 / 0)
    refused(written(tmp_path), "at most 0 MiB are read")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = Path(written(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes([content[200] ^ 255]) + content[201:])
    refused(str(path), "expected an .npz file; got")
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr'")
    refused(str(path), "expected an .npz file; got")
    path.write_bytes(content)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr("train_images.npy", header_of((0,)))
    refused(str(path), "train_images is in it twice")


def test_splits_of_two_sizes_are_scaled_to_one(tmp_path: Path) -> None:
    path = written(tmp_path, test_images=np.full((4, 9, 7), 80, np.uint8))
    refused(path, r"differ in size: .* set data.side")
    dataset = load_dataset("npz", path, ReadOptions(side=6))
    assert (dataset.train_images.shape, dataset.test_images.shape) == ((6, 1, 6, 6), (4, 1, 6, 6))
    assert bool((dataset.test_images == 80).all())
