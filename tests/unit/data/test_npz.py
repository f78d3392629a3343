"""The dataset `npz`: read completely, or refused with the expected content."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_sim.data.sources import MissingDataError, load_dataset


def written(path: Path, **changed: Any) -> str:
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (6, 3, 4, 5)).astype(np.uint8),
        "train_labels": np.array([0, 1, 2, 0, 1, 2]),
        "test_images": rng.integers(0, 256, (2, 3, 4, 5)).astype(np.uint8),
        "test_labels": np.array([3, 0], dtype=np.int32),
    }
    file = path / "mine.npz"
    np.savez(file, **{k: v for k, v in (arrays | changed).items() if v is not None})
    return str(file)


def test_arrays_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = written(tmp_path)
    dataset = load_dataset("npz", path)
    with np.load(path) as file:
        for name in file.files:
            assert np.array_equal(getattr(dataset, name).numpy(), file[name])
    assert dataset.class_names == ("0", "1", "2", "3")
    assert dataset.origin == path


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"test_labels": None}, "test_labels"),
        ({"train_images": np.zeros((6, 3, 4, 5))}, "expected train_images as uint8.*float64"),
        ({"train_images": np.zeros((6, 20), np.uint8)}, r"shape \(6, 20\)"),
        ({"train_labels": np.zeros(5, int)}, "expected train_labels as 6 whole"),
        ({"train_labels": np.arange(6) - 1}, "whole numbers from 0"),
        ({"train_labels": np.zeros(6)}, "got float64"),
        ({"train_labels": np.array([{}] * 6)}, "expected an .npz file"),
    ],
    ids=str,
)
def test_invalid_arrays_are_named(tmp_path: Path, changed: Any, problem: str) -> None:
    with pytest.raises(MissingDataError, match=problem):
        load_dataset("npz", written(tmp_path, **changed))


def test_a_file_that_is_no_npz_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    for path in (tmp_path / "text.npz", tmp_path / "missing.npz", tmp_path):
        with pytest.raises(MissingDataError, match=f"got {path}"):
            load_dataset("npz", str(path))


def test_a_missing_path_is_refused_with_the_expected_value() -> None:
    with pytest.raises(MissingDataError, match=r"data\.path: expected an .npz file"):
        load_dataset("npz")
