"""The Olivetti faces, from the file that scikit-learn's loader names."""

from pathlib import Path
from typing import ClassVar, final

import torch

from fl_sim.contracts import Dataset
from fl_sim.core.cache import cache_folder
from fl_sim.data.download import Listen, PublishedFile, download, find_file
from fl_sim.data.sources import Source
from fl_sim.data.splits import split_stratified

PEOPLE, EACH, SIDE = 40, 10, 64
FILE = PublishedFile(
    "https://ndownloader.figshare.com/files/5976027",
    "olivettifaces.mat",
    "sha256",
    "b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794",
)


@final
class Olivetti(Source):
    """400 grey photographs of faces, 64 x 64, ten of each of 40 people.

    Source: Samaria and Harter (1994), https://doi.org/10.1109/ACV.1994.341311, AT&T Laboratories
    Cambridge, through scikit-learn. It has no test set of its own: a fixed random fifth of each
    person's images is set apart.
    """

    name: ClassVar[str] = "olivetti"
    is_published: ClassVar[bool] = True

    def fetch(self, listen: Listen) -> None:
        """Fetch the file into the cache."""
        download(FILE, _folder() / FILE.name, listen)

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the dataset from `path`, a file or its folder, or from the cache."""
        file = find_file(FILE, self.name, path, _folder())
        from scipy.io import loadmat  # half a second to import, for this dataset alone

        # Columns are images, each column by column, of bytes or of their values.
        faces = torch.from_numpy(loadmat(file)["faces"]).double().T
        images = (faces - faces.min()).mul(255 / (faces.max() - faces.min())).round()
        images = images.reshape(PEOPLE * EACH, 1, SIDE, SIDE).transpose(2, 3).to(torch.uint8)
        labels = torch.arange(PEOPLE).repeat_interleave(EACH)
        names = tuple(f"person {number + 1}" for number in range(PEOPLE))
        train, test = split_stratified([names[label] for label in labels.tolist()], self.name)
        return Dataset(
            name=self.name,
            train_images=images[train].contiguous(),
            train_labels=labels[train],
            test_images=images[test].contiguous(),
            test_labels=labels[test],
            class_names=names,
            origin=str(file),
            notes=("a fifth of each person's images set apart for testing",),
        )


def _folder() -> Path:
    return cache_folder() / "data" / Olivetti.name
