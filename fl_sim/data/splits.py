"""The parts of a dataset: their names, and which images are trained and tested on."""

import re
from collections.abc import Collection, Sequence

import torch

from fl_sim.core.seeding import generator
from fl_sim.data.sources import MissingDataError

TEST_SHARE = 0.2
# Usual names of the parts of a dataset, in lower case.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tests", "eval", "evaluation"),
}
WORDS = re.compile(r"[ _-]?(set|split|data|images)$")  # that may follow: test_set, train-images


def parse_split(name: str) -> str:
    """Return which part of a dataset a name stands for: `train`, `val`, `test`, or "" for none.

    >>> parse_split("Training"), parse_split("test_set"), parse_split("cat")
    ('train', 'test', '')
    """
    bare = WORDS.sub("", name.casefold())
    return next((part for part, names in SPLITS.items() if bare in names), "")


def split_stratified(labels: Sequence[str], name: str) -> tuple[list[int], list[int]]:
    """Return the positions that are trained on, and those of a fifth of each class for testing.

    A class of two or more images has at least one on either side; the only image of a class is
    trained on. The draw of a class depends on its name and size alone.

    Args:
        labels: of each image.
        name: of the dataset, by which the generator is called.

    Raises:
        MissingDataError: where no class has two images.
    """
    by_class: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    test: set[int] = set()
    for label, own in by_class.items():
        rng = generator(0, name, "split", label)
        count = min(max(1, round(TEST_SHARE * len(own))), len(own) - 1)
        test |= {own[i] for i in torch.randperm(len(own), generator=rng)[:count].tolist()}
    if not test:
        raise MissingDataError(
            f"data.path: {name} needs at least two images of a class, to train and to test on"
        )
    return [i for i in range(len(labels)) if i not in test], sorted(test)


def choose_test_split(parts: Collection[str], missing: str) -> tuple[str, str]:
    """Return the part that is tested on, beside `train`, and a note on what becomes of `val`.

    Raises:
        MissingDataError: with the message `missing`, where a part to train or test on is.
    """
    if "train" not in parts or not {"test", "val"} & {*parts}:
        raise MissingDataError(missing)
    if "test" not in parts:
        return "val", "tested on the validation part: there is no other"
    return "test", "the validation part is not read" if "val" in parts else ""
