"""Hashes of a dataset's files: equal for equal bytes, different for any change."""

import os
from pathlib import Path

import numpy as np
import pytest

from fl_sim.core import atomic_io
from fl_sim.data.sources import MissingDataError, hash_dataset, load_subset


def written(path: Path, count: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    images = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    parts = {f"{part}_images": images for part in ("train", "test")}
    np.savez(path, **parts, train_labels=labels, test_labels=labels)
    return str(path)


def test_published_datasets_have_no_fingerprint() -> None:
    for name in ("digits", "fashion_mnist", "cifar10", "cifar100", "npz"):
        assert hash_dataset(name) == ""


def test_a_replaced_file_is_read_again_in_the_same_process(tmp_path: Path) -> None:
    path = written(tmp_path / "some.npz", 40)
    first = load_subset("npz", path, None, None)
    assert load_subset("npz", path, None, None) is first
    written(tmp_path / "some.npz", 80, seed=1)
    assert len(load_subset("npz", path, None, None).train_labels) == 80


def test_a_file_overwritten_in_place_within_the_same_instant_is_noticed(tmp_path: Path) -> None:
    """Size, inode and modification time stay the same: only the bytes differ."""
    path = tmp_path / "a"
    for text in ("one", "two", "six"):
        path.write_text(text)
        os.utime(path, ns=(0, 0))
        other = tmp_path / "other"
        other.write_text(text)
        assert atomic_io.hash_file(path) == atomic_io.hash_file(other)


def test_an_unchanged_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_io, "SETTLED", -1e9)
    path = tmp_path / "a"
    path.write_text("one")
    first = atomic_io.hash_file(path)
    monkeypatch.setattr(Path, "open", lambda *args: 1 / 0)
    assert atomic_io.hash_file(path) == first


def test_a_folder_is_hashed_by_names_and_content(tmp_path: Path) -> None:
    for place in ("one", "two"):
        for name in ("x/1.png", "y/2.png"):
            (tmp_path / place / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / place / name).write_text(name)
    one, two = (str(tmp_path / place) for place in ("one", "two"))
    same = hash_dataset("image_folder", one)
    assert hash_dataset("image_folder", two) == same
    (tmp_path / "two" / ".hidden").write_text("")
    assert hash_dataset("image_folder", two) == same
    (tmp_path / "two" / "x" / "1.png").rename(tmp_path / "two" / "y" / "1.png")
    moved = hash_dataset("image_folder", two)
    (tmp_path / "two" / "y" / "1.png").write_text("other")
    assert len({same, moved, hash_dataset("image_folder", two)}) == 3


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"data.path: .*nowhere.npz cannot be read: No such"):
        hash_dataset("npz", str(tmp_path / "nowhere.npz"))
