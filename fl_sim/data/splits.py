"""The splits of a dataset: their usual names, and the choice of training and test images."""

import re
from collections.abc import Collection, Sequence

import torch

from fl_sim.core.seeding import generator
from fl_sim.data.sources import MissingDataError

TEST_SHARE = 0.2
# Usual names of splits, in lower case.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tests", "eval", "evaluation"),
}
WORDS = re.compile(r"[ _-]?(set|split|data|images)$")  # such as test_set, train-images


def parse_split(name: str) -> str:
    """Return the split that a name stands for: `train`, `val`, `test`, or an empty string.

    >>> parse_split("Training"), parse_split("test_set"), parse_split("cat")
    ('train', 'test', '')
    """
    bare = WORDS.sub("", name.casefold())
    return next((split for split, names in SPLITS.items() if bare in names), "")


def split_stratified(labels: Sequence[str], name: str) -> tuple[list[int], list[int]]:
    """Return the positions of the training images, and of a fifth of each class for testing.

    A class of two or more images has at least one in either split; a single image is trained on.
    The draw of a class depends on its name and size alone.

    Args:
        labels: Label of each image.
        name: Name of the dataset, which seeds the generator.

    Raises:
        MissingDataError: If no class has two images.
    """
    by_class: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    test: set[int] = set()
    for label, rows in by_class.items():
        rng = generator(0, name, "split", label)
        count = min(max(1, round(TEST_SHARE * len(rows))), len(rows) - 1)
        test |= {rows[i] for i in torch.randperm(len(rows), generator=rng)[:count].tolist()}
    if not test:
        raise MissingDataError(
            f"data.path: {name} needs at least two images of a class, to train and to test on"
        )
    return [i for i in range(len(labels)) if i not in test], sorted(test)


def choose_test_split(splits: Collection[str], problem: str) -> tuple[str, str]:
    """Return the split to test on, and a note on the use of `val`.

    Raises:
        MissingDataError: If there is no split to train or to test on, with the message `problem`.
    """
    if "train" not in splits or not {"test", "val"} & {*splits}:
        raise MissingDataError(problem)
    if "test" not in splits:
        return "val", "tested on the validation split: there is no other"
    return "test", "the validation split is not read" if "val" in splits else ""
