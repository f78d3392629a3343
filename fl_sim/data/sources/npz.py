"""Images of your own, from one NumPy file."""

import zipfile
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch

from fl_sim.contracts import Dataset
from fl_sim.data.sources import MissingDataError, Source

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@final
class Npz(Source):
    """Your own images, from the .npz file that `data.path` names.

    It holds `train_images`, `train_labels`, `test_images`, `test_labels`: images as `uint8` of
    n x channels x height x width, labels as whole numbers from 0. Nothing in it is unpickled.

    Source: this project.
    """

    name: ClassVar[str] = "npz"

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the dataset in the file at `path`."""
        if path is None:
            raise MissingDataError("data.path: expected an .npz file of your own; got None")
        content = _read(path)
        tensors = {name: torch.from_numpy(array) for name, array in content.items()}
        num_classes = 1 + max(int(content[name].max()) for name in ARRAYS if "labels" in name)
        return Dataset(
            name=self.name,
            train_images=tensors["train_images"],
            train_labels=tensors["train_labels"].long(),
            test_images=tensors["test_images"],
            test_labels=tensors["test_labels"].long(),
            class_names=tuple(str(label) for label in range(num_classes)),
            origin=str(path),
        )


def _read(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    """Read the four arrays and check that they fit each other."""
    try:
        with np.load(path, allow_pickle=False) as file:
            content = {name: file[name] for name in ARRAYS}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise MissingDataError(
            f"data.path: expected an .npz file with {', '.join(ARRAYS)}; got {path} ({error})"
        ) from None
    for part in ("train", "test"):
        _check(path, part, content[f"{part}_images"], content[f"{part}_labels"])
    return content


def _check(
    path: Path, part: str, images: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]
) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
        allowed = "uint8, n x channels x height x width"
        found = f"{images.dtype} of shape {images.shape}"
        raise MissingDataError(f"{path}: expected {part}_images as {allowed}; got {found}")
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.shape != (len(images),) or int(labels.min()) < 0:
        allowed = f"{len(images)} whole numbers from 0"
        found = f"{labels.dtype} of shape {labels.shape}"
        raise MissingDataError(f"{path}: expected {part}_labels as {allowed}; got {found}")
