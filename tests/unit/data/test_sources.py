"""Datasets by name: embedded ones, subsets, and one error if files are missing."""

import gzip
import hashlib
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_sim.core.errors import FieldError
from fl_sim.data import sources
from fl_sim.data.sources import (
    MissingDataError,
    fashion_mnist,
    load_dataset,
    load_subset,
    select_classes,
    take_subset,
)

NAMES = tuple(fashion_mnist.CHECKSUMS)
SIZES = {"train": 20, "t10k": 10}


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes in the IDX format: magic number, sizes, values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def tiny_files() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    files = {}
    for name in NAMES:
        count = SIZES[name.split("-")[0]]
        shape = (count, 28, 28) if "images" in name else (count,)
        files[name] = idx(rng.integers(0, 10, shape).astype(np.uint8))
    return files


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return tiny files, whose checksums replace the published ones."""
    files = tiny_files()
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(fashion_mnist, "CHECKSUMS", sums)
    return files


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Disable every place but the empty cache: no network, no apt-get."""
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", tmp_path / "system")

    def no_command(command: list[str], *args: Any, **kwargs: Any) -> Any:
        return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package\nmore")

    def no_mirror(cache: Path) -> Path:
        raise RuntimeError("Error downloading: no network\nwith a second line")

    monkeypatch.setattr(subprocess, "run", no_command)
    monkeypatch.setattr(fashion_mnist, "_fetch_mirror", no_mirror)
    return tmp_path


def put(folder: Path, files: dict[str, bytes], packed: bool) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_idx_files_are_read_packed_or_plain(
    tiny: dict[str, bytes], tmp_path: Path, packed: bool
) -> None:
    dataset = load_dataset("fashion_mnist", str(put(tmp_path / "files", tiny, packed)))
    assert dataset.train_images.shape == (20, 1, 28, 28)
    assert dataset.test_images.shape == (10, 1, 28, 28)
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (torch.uint8, torch.int64)
    assert dataset.train_images.numpy().tobytes() == tiny["train-images-idx3-ubyte"][16:]
    assert bytes(dataset.test_labels.tolist()) == tiny["t10k-labels-idx1-ubyte"][8:]
    assert dataset.num_classes == 10
    assert dataset.origin == str(tmp_path / "files")


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_byte_is_detected(tiny: dict[str, bytes], tmp_path: Path, name: str) -> None:
    content = bytearray(tiny[name])
    content[-1] ^= 1
    folder = put(tmp_path / "files", tiny | {name: bytes(content)}, packed=True)
    with pytest.raises(MissingDataError, match=f"{name} in .*damaged: wrong checksum"):
        load_dataset("fashion_mnist", str(folder))


@pytest.mark.parametrize("cut", [0, 5, 200], ids=["empty", "header", "torn"])
def test_a_truncated_file_is_detected(tiny: dict[str, bytes], tmp_path: Path, cut: int) -> None:
    folder = put(tmp_path / "files", tiny, packed=True)
    torn = folder / f"{NAMES[0]}.gz"
    torn.write_bytes(torn.read_bytes()[:cut])
    with pytest.raises(MissingDataError, match=r"damaged"):
        load_dataset("fashion_mnist", str(folder))


def test_a_file_that_is_no_archive_is_detected(tiny: dict[str, bytes], tmp_path: Path) -> None:
    folder = put(tmp_path / "files", tiny, packed=True)
    (folder / f"{NAMES[2]}.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(MissingDataError, match=r"damaged"):
        load_dataset("fashion_mnist", str(folder))


def test_a_missing_file_is_named(tiny: dict[str, bytes], tmp_path: Path) -> None:
    folder = put(tmp_path / "files", tiny, packed=True)
    (folder / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(MissingDataError, match=rf"no {NAMES[3]}.gz in {folder}"):
        load_dataset("fashion_mnist", str(folder))


def test_files_of_another_dataset_are_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "files", tiny_files(), packed=True)
    with pytest.raises(MissingDataError, match=r"wrong checksum"):
        load_dataset("fashion_mnist", str(folder))


def test_one_error_names_every_place_that_was_tried(nowhere: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        load_dataset("fashion_mnist")
    text = str(caught.value)
    assert text.startswith("data.dataset: fashion_mnist was not found; tried ")
    assert len(text.splitlines()) == 1
    for place in (
        str(nowhere / "cache" / "data" / "fashion_mnist"),
        str(nowhere / "system"),
        "apt-get download dataset-fashion-mnist (apt-get failed: E: Unable to locate package)",
        "torchvision's mirror (Error downloading: no network)",
    ):
        assert place in text


def test_a_place_where_nothing_can_be_run_is_named_too(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_program(command: list[str], *args: Any, **kwargs: Any) -> Any:
        raise FileNotFoundError(f"no such file: {command[0]}")

    monkeypatch.setattr(subprocess, "run", no_program)
    with pytest.raises(MissingDataError, match=r"apt-get download .*no such file: apt-get"):
        load_dataset("fashion_mnist")


def test_a_failed_search_leaves_nothing_behind(nowhere: Path) -> None:
    with pytest.raises(MissingDataError):
        load_dataset("fashion_mnist")
    assert not (nowhere / "cache" / "data" / "fashion_mnist").exists()


def test_a_damaged_cache_does_not_hide_the_next_place(
    nowhere: Path, tiny: dict[str, bytes]
) -> None:
    put(nowhere / "cache" / "data" / "fashion_mnist", {NAMES[0]: b"torn"}, packed=False)
    put(nowhere / "system", tiny, packed=True)
    assert load_dataset("fashion_mnist").origin == str(nowhere / "system")


def test_downloads_are_checked_and_cached(
    nowhere: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = put(nowhere / "fetched", tiny, packed=True)
    kept: Any = fashion_mnist._copy_to_cache
    monkeypatch.setattr(fashion_mnist, "_fetch_mirror", lambda cache: kept(fetched, cache))
    cache = nowhere / "cache" / "data" / "fashion_mnist"
    assert load_dataset("fashion_mnist").origin == str(cache)
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{n}.gz" for n in NAMES)
    assert [path.name for path in cache.parent.iterdir()] == ["fashion_mnist"]
    monkeypatch.setattr(fashion_mnist, "_fetch_mirror", lambda cache: 1 / 0)
    assert load_dataset("fashion_mnist").origin == str(cache)


def test_damaged_downloads_are_never_cached(
    nowhere: Path, tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = put(nowhere / "fetched", tiny | {NAMES[1]: b"torn"}, packed=True)
    kept: Any = fashion_mnist._copy_to_cache
    monkeypatch.setattr(fashion_mnist, "_fetch_mirror", lambda cache: kept(fetched, cache))
    with pytest.raises(MissingDataError, match=r"mirror .*damaged"):
        load_dataset("fashion_mnist")
    assert not (nowhere / "cache" / "data" / "fashion_mnist").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_photographs_are_asked_for_by_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=rf"data.dataset: {name} .*{tmp_path}") as caught:
        load_dataset(name, str(tmp_path))
    assert "data.path" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(FieldError, match=r"data.dataset: one of .*digits.*; got 'mnist'"):
        load_dataset("mnist")


def test_datasets_are_found_by_walking_the_package() -> None:
    assert {"cifar10", "cifar100", "digits", "fashion_mnist"} <= set(sources.discover_sources())
    assert all(source.name == name for name, source in sources.discover_sources().items())


def test_digits_are_whole_and_split_once() -> None:
    digits = load_dataset("digits")
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert (digits.train_images.dtype, digits.train_labels.dtype) == (torch.uint8, torch.int64)
    assert (int(digits.train_images.min()), int(digits.train_images.max())) == (0, 255)
    assert digits.class_names == tuple("0123456789")
    assert torch.equal(load_dataset("digits").train_images, digits.train_images)


def test_no_digit_is_in_both_splits() -> None:
    from sklearn.datasets import load_digits

    content, digits = load_digits(), load_dataset("digits")
    both = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    labels = torch.cat([digits.train_labels, digits.test_labels])
    whole = torch.from_numpy(content.images).mul(255 / 16).round().to(torch.uint8).flatten(1)
    ours = sorted(map(tuple, torch.cat([both, labels[:, None]], 1).tolist()))
    labelled = torch.cat([whole, torch.from_numpy(content.target)[:, None]], 1)
    assert ours == sorted(map(tuple, labelled.tolist()))


@given(size=st.integers(1, 1437))
def test_a_subset_is_balanced_as_far_as_the_classes_go(size: int) -> None:
    digits = load_once()
    labels = take_subset(digits, size, None).train_labels
    assert len(labels) == size
    counts, available = labels.bincount(minlength=10), digits.train_labels.bincount()
    # Classes differ by one image at most, except those that are used up.
    short = counts < counts.max() - 1
    assert torch.equal(counts[short], available[short])


@given(sizes=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_a_smaller_subset_is_part_of_a_larger_one(sizes: tuple[int, int]) -> None:
    small, large = (rows_of(take_subset(load_once(), size, None)) for size in sorted(sizes))
    assert all(large.count(row) >= small.count(row) for row in set(small))


def test_a_subset_keeps_images_and_labels_together() -> None:
    digits = load_once()
    pairs = set(rows_of(digits))
    assert set(rows_of(take_subset(digits, 77, 13))) <= pairs
    assert len(take_subset(digits, 77, 13).test_labels) == 13


def test_a_whole_dataset_is_unchanged() -> None:
    digits = load_once()
    whole = take_subset(digits, None, None)
    assert torch.equal(whole.train_images, digits.train_images)
    assert torch.equal(whole.test_labels, digits.test_labels)


@pytest.mark.parametrize(
    ("train", "test", "field"), [(1438, None, "num_samples"), (5, 361, "num_test")]
)
def test_sizes_above_the_dataset_are_refused(train: int, test: int | None, field: str) -> None:
    with pytest.raises(FieldError, match=rf"data.{field}: at most the \d+ images of digits; got"):
        take_subset(load_once(), train, test)


@given(classes=st.lists(st.integers(0, 9), min_size=2, unique=True))
def test_some_classes_are_all_their_images_numbered_anew(classes: list[int]) -> None:
    digits = load_once()
    some = select_classes(digits, tuple(classes))
    assert some.class_names == tuple(digits.class_names[c] for c in classes)
    for number, old in enumerate(classes):
        for part in ("train", "test"):
            images, labels = getattr(digits, f"{part}_images"), getattr(digits, f"{part}_labels")
            own, own_labels = getattr(some, f"{part}_images"), getattr(some, f"{part}_labels")
            assert torch.equal(own[own_labels == number], images[labels == old])
    assert len(some.train_labels) == sum(int((digits.train_labels == c).sum()) for c in classes)


def test_a_missing_class_is_refused() -> None:
    with pytest.raises(FieldError, match=r"data.classes: numbers from 0 to 9 of digits; got"):
        select_classes(load_once(), (0, 10))


def test_a_subset_of_some_classes_is_balanced() -> None:
    some = load_subset("digits", None, 30, 12, (8, 1, 3))
    assert some.train_labels.bincount().tolist() == [10, 10, 10]
    assert some.test_labels.bincount().tolist() == [4, 4, 4]


_loaded: list[Any] = []


def load_once() -> Any:
    """Return the digits, loaded once, since hypothesis calls a test many times."""
    if not _loaded:
        _loaded.append(load_dataset("digits"))
    return _loaded[0]


def rows_of(dataset: Any) -> list[tuple[bytes, int]]:
    pairs = zip(dataset.train_images, dataset.train_labels.tolist(), strict=True)
    return [(image.numpy().tobytes(), label) for image, label in pairs]
