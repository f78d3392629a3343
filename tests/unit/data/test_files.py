"""User's own images as datasets: folders and arrays, and the errors for invalid ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fl_sim.data.sources import MissingDataError, load_dataset

RNG = np.random.default_rng(1)


def put(path: Path, *size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, size, dtype=np.uint8)).save(path)


def test_class_folders_are_a_dataset(tmp_path: Path) -> None:
    for index in range(20):
        put(tmp_path / "ab"[index % 2] / f"{index}.png", 8, 9)
    dataset = load_dataset("image_folder", str(tmp_path))
    assert dataset.train_images.shape == (16, 1, 8, 9)
    assert dataset.test_images.shape == (4, 1, 8, 9)
    assert dataset.class_names == ("a", "b")
    assert dataset.origin == str(tmp_path)
    again = load_dataset("image_folder", str(tmp_path))
    assert torch.equal(again.test_images, dataset.test_images)
    both = torch.cat([dataset.train_images, dataset.test_images]).flatten(1)
    assert len(both.unique(dim=0)) == 20


def test_folders_train_and_test_are_the_two_splits(tmp_path: Path) -> None:
    for part, count in (("train", 6), ("test", 2)):
        for index in range(count):
            put(tmp_path / part / "xyz"[index % 3] / f"{index}.png", 8, 8, 3)
    dataset = load_dataset("image_folder", str(tmp_path))
    assert dataset.train_images.shape == (6, 3, 8, 8)
    assert dataset.test_labels.tolist() == [0, 1]
    assert dataset.num_classes == 3


def test_pixels_and_labels_stay_together(tmp_path: Path) -> None:
    for index in range(10):
        path = tmp_path / "train" / str(index % 3) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), index).save(path)
    put(tmp_path / "test" / "0" / "x.png", 4, 4)
    dataset = load_dataset("image_folder", str(tmp_path))
    assert (dataset.train_images[:, 0, 0, 0] % 3).tolist() == dataset.train_labels.tolist()


def test_folders_that_are_no_dataset_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"data.path: image_folder needs a folder"):
        load_dataset("image_folder")
    with pytest.raises(MissingDataError, match=r"there is no folder"):
        load_dataset("image_folder", str(tmp_path / "nowhere"))
    put(tmp_path / "a" / "1.png", 8, 8)
    put(tmp_path / "b" / "2.png", 8, 9)
    with pytest.raises(MissingDataError, match=r"images of one size are needed: .*\(8, 8\)"):
        load_dataset("image_folder", str(tmp_path))
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(tmp_path / "b" / "2.png")
    with pytest.raises(MissingDataError, match=r"2.png has more than 8 bits"):
        load_dataset("image_folder", str(tmp_path))


def arrays(**changes: Any) -> dict[str, Any]:
    usual = {
        "train_images": RNG.integers(0, 256, (6, 28, 28, 3), dtype=np.uint8),
        "train_labels": np.array([[0], [1], [2], [0], [1], [2]], dtype=np.uint8),
        "val_images": np.zeros((1, 28, 28, 3), dtype=np.uint8),
        "val_labels": np.zeros((1, 1), dtype=np.uint8),
        "test_images": RNG.integers(0, 256, (3, 28, 28, 3), dtype=np.uint8),
        "test_labels": np.array([[2], [1], [0]], dtype=np.uint8),
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def test_a_file_of_medmnist_is_a_dataset(tmp_path: Path) -> None:
    content = arrays()
    np.savez(tmp_path / "some.npz", **content)
    dataset = load_dataset("npz", str(tmp_path / "some.npz"))
    assert np.array_equal(dataset.train_images.permute(0, 2, 3, 1), content["train_images"])
    assert dataset.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test_labels.tolist() == [2, 1, 0]
    assert dataset.num_classes == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_images": None, "test_labels": None}, "no test_images"),
        ({"train_labels": None}, "image without a label: no train_labels"),
        ({"train_labels": np.zeros((6, 14), np.uint8)}, "expected train_labels as 6 whole numbers"),
        ({"train_labels": -np.ones((6, 1), np.int64)}, "whole numbers from 0"),
        ({"train_images": np.zeros((6, 28, 28, 3))}, "expected train_images as uint8"),
        ({"train_images": np.zeros((6, 5, 5, 5), np.uint8)}, "1 or 3 channels"),
        ({"test_images": np.zeros((3, 8, 8, 3), np.uint8)}, "differ in size"),
        ({"train_labels": np.array([[None]] * 6)}, "expected an .npz file"),
    ],
)
def test_files_that_are_no_dataset_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "some.npz", **arrays(**changes))
    with pytest.raises(MissingDataError, match=message):
        load_dataset("npz", str(tmp_path / "some.npz"))


def test_files_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"data.path: expected an .npz file"):
        load_dataset("npz")
    (tmp_path / "some.npz").write_bytes(b"<html>")
    with pytest.raises(MissingDataError, match=r"expected an .npz file; got"):
        load_dataset("npz", str(tmp_path / "some.npz"))
