"""scikit-learn's handwritten digits: embedded in the package, so they need no network."""

from pathlib import Path
from typing import ClassVar, final

import torch

from fl_sim.contracts import Dataset
from fl_sim.core.seeding import generator
from fl_sim.data.sources import Source

NUM_TEST = 360


@final
class Digits(Source):
    """1,797 handwritten digits, 8 x 8 grey levels; no download.

    Source: Alpaydin and Kaynak (1998), https://doi.org/10.24432/C50P49, as shipped with
    scikit-learn. It has no test set of its own: a fixed random fifth is set apart.
    """

    name: ClassVar[str] = "digits"
    is_published: ClassVar[bool] = True

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the dataset; it comes with scikit-learn, so `path` is ignored."""
        from sklearn.datasets import load_digits  # a second to import, for this dataset alone

        content = load_digits()
        images = torch.from_numpy(content.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(content.target).long()
        order = torch.randperm(len(labels), generator=generator(0, "digits", "split"))
        test, train = order[:NUM_TEST].sort().values, order[NUM_TEST:].sort().values
        return Dataset(
            name=self.name,
            train_images=images[train],
            train_labels=labels[train],
            test_images=images[test],
            test_labels=labels[test],
            class_names=tuple(str(digit) for digit in range(10)),
            origin="scikit-learn",
        )
