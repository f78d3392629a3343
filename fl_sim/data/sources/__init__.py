"""Datasets by name; each file of this package adds one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from fl_sim.contracts import Dataset
from fl_sim.core.errors import FieldError, RequestError, suggest
from fl_sim.core.plugins import discover, index_by_name
from fl_sim.core.seeding import generator
from fl_sim.core.user_modules import hash_modules
from fl_sim.data.fingerprint import hash_files, list_files
from fl_sim.data.scaling import resize


class MissingDataError(RequestError):
    """The files of a dataset are missing or damaged."""


class ReadOptions(NamedTuple):
    """Options for reading the images of a dataset.

    Attributes:
        side: Side that images are scaled to, in pixels. If None, their size is kept.
        folders: Levels of an image folder, such as `split/label/owner`. If None, they are read
            from the names of the folders.
    """

    side: int | None = None
    folders: str | None = None


DEFAULT_OPTIONS = ReadOptions()


class Source(ABC):
    """A dataset that can be loaded by its name.

    Attributes:
        name: Name of the dataset.
        is_published: True if the name identifies the content: files are checked against published
            checksums, or come with a package.
    """

    name: ClassVar[str]
    is_published: ClassVar[bool] = False

    @abstractmethod
    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the whole dataset.

        Args:
            path: Folder of its files. If None, the usual places are tried.
            fetch: If True, places that need a network are tried, too.

        Raises:
            MissingDataError: If it is not found; the message names every place tried.
        """

    def fetch(self, listen: Callable[[int, int], None]) -> None:
        """Fetch the files into the cache, by default as `load` does.

        Args:
            listen: Called with the bytes that are here, and those of the whole file, or 0.

        Raises:
            MissingDataError: If they cannot be fetched; the message says where to put them.
        """
        self.load(None)

    def read(self, path: Path | None, options: ReadOptions) -> Dataset:
        """Return the whole dataset, read with `options`.

        Raises:
            FieldError: If levels of folders are given for a dataset without folders.
            MissingDataError: As in `load`.
        """
        if options.folders is not None:
            raise FieldError("data.folders", "None but for folders of images", options.folders)
        return self.load_scaled(path, options.side)

    def load_scaled(self, path: Path | None, side: int | None) -> Dataset:
        """Return the whole dataset, scaled to `side` pixels unless it is None.

        Override it where images that differ in size can be scaled as they are read.
        """
        whole = self.load(path)
        if side is None:
            return whole
        return replace(
            whole,
            train_images=resize(whole.train_images, side),
            test_images=resize(whole.test_images, side),
        )

    def fingerprint(self, path: Path | None) -> str:
        """Return a hash of all files at `path`, or an empty string for a published dataset.

        Raises:
            MissingDataError: If files are missing or cannot be read.
        """
        if path is None or self.is_published:
            return ""
        try:
            root = path if path.is_dir() else path.parent
            return hash_files(root, list_files(path))
        except OSError as error:
            raise MissingDataError(f"data.path: {path} cannot be read: {error.strerror}") from None


def discover_sources() -> dict[str, Source]:
    """Return every dataset by its name."""
    return index_by_name(discover(__name__, Source))  # type: ignore[type-abstract]


def load_dataset(
    name: str, path: str | None = None, options: ReadOptions = DEFAULT_OPTIONS
) -> Dataset:
    """Return a dataset by its name, read with `options`.

    Raises:
        FieldError: If the name is unknown.
        MissingDataError: If its files are missing or damaged.
    """
    return find_source(name).read(_resolve_path(path), options)


def hash_dataset(name: str, path: str | None = None) -> str:
    """Return a hash of a dataset's files, or an empty string for a published dataset.

    That of a dataset class of the user's covers its module, too. A file is read again only if its
    time stamps, size or inode have changed.

    Raises:
        FieldError: If the name is unknown.
        MissingDataError: If files are missing or cannot be read.
    """
    source = find_source(name)
    code = hash_modules([type(source).__module__])
    return " ".join(filter(None, [source.fingerprint(_resolve_path(path)), code]))


def find_source(name: str) -> Source:
    """Return a dataset by its name.

    Raises:
        FieldError: If the name is unknown.
    """
    known = discover_sources()
    if name not in known:
        raise FieldError("data.dataset", f"one of {', '.join(known)}{suggest(name, known)}", name)
    return known[name]


def _resolve_path(path: str | None) -> Path | None:
    return _expand_user(path) if path else None


def _expand_user(path: str) -> Path:
    """Return the path that a user gave, with `~` expanded; refuse one that cannot exist."""
    try:
        folder = Path(path).expanduser()
        folder.exists()  # raises if a name is too long
    except (RuntimeError, OSError) as error:  # RuntimeError: no such user
        cause = getattr(error, "strerror", None) or "no such user has a home folder"
        raise FieldError("data.path", f"a folder on this machine ({cause})", path) from None
    return folder


def load_subset(
    name: str,
    path: str | None,
    num_samples: int | None,
    num_test: int | None,
    classes: tuple[int, ...] | None = None,
    options: ReadOptions = DEFAULT_OPTIONS,
) -> Dataset:
    """Return a subset of a dataset, shared by all callers.

    It is read and checked once per process, and again if its files have changed.
    """
    content = hash_dataset(name, path)
    return _cached_subset(content, name, path, num_samples, num_test, classes, options)


@lru_cache(maxsize=2)
def _cached_subset(
    content: str,
    name: str,
    path: str | None,
    num_samples: int | None,
    num_test: int | None,
    classes: tuple[int, ...] | None,
    options: ReadOptions,
) -> Dataset:
    whole = load_dataset(name, path, options)
    return take_subset(select_classes(whole, classes) if classes else whole, num_samples, num_test)


def select_classes(dataset: Dataset, classes: tuple[int, ...]) -> Dataset:
    """Return the images of these classes alone, renumbered in the order given.

    Raises:
        FieldError: If the dataset does not have one of them.
    """
    last = dataset.num_classes - 1
    if not all(0 <= c <= last for c in classes):
        raise FieldError("data.classes", f"numbers from 0 to {last} of {dataset.name}", classes)
    new_label = torch.full((dataset.num_classes,), -1)
    new_label[torch.tensor(classes)] = torch.arange(len(classes))
    train, test = new_label[dataset.train_labels], new_label[dataset.test_labels]
    owners, test_owners = dataset.train_owners, dataset.test_owners
    return replace(
        dataset,
        train_images=dataset.train_images[train >= 0],
        train_labels=train[train >= 0],
        train_owners=owners if owners is None else owners[train >= 0],
        test_owners=test_owners if test_owners is None else test_owners[test >= 0],
        test_images=dataset.test_images[test >= 0],
        test_labels=test[test >= 0],
        class_names=tuple(dataset.class_names[c] for c in classes),
    )


def take_subset(dataset: Dataset, num_samples: int | None, num_test: int | None) -> Dataset:
    """Return a class-balanced subset, the same for every seed and nested over sizes.

    Raises:
        FieldError: If a size is above that of the dataset.
    """
    train = _choose_balanced(dataset.train_labels, num_samples, "data.num_samples", dataset.name)
    test = _choose_balanced(dataset.test_labels, num_test, "data.num_test", dataset.name)
    owners, test_owners = dataset.train_owners, dataset.test_owners
    return replace(
        dataset,
        train_images=dataset.train_images[train],
        train_labels=dataset.train_labels[train],
        train_owners=owners if owners is None else owners[train],
        test_owners=test_owners if test_owners is None else test_owners[test],
        test_images=dataset.test_images[test],
        test_labels=dataset.test_labels[test],
    )


def take_rest(dataset: Dataset, num_samples: int | None) -> Dataset:
    """Return the training images that `take_subset` leaves out, and all test images.

    Raises:
        FieldError: If the size is above that of the dataset.
    """
    taken = _choose_balanced(dataset.train_labels, num_samples, "data.num_samples", dataset.name)
    left = torch.ones(len(dataset.train_labels), dtype=torch.bool)
    left[taken] = False
    owners = dataset.train_owners
    return replace(
        dataset,
        train_images=dataset.train_images[left],
        train_labels=dataset.train_labels[left],
        train_owners=owners if owners is None else owners[left],
    )


def _choose_balanced(
    labels: Int64[Tensor, " n"], size: int | None, field: str, name: str
) -> Int64[Tensor, " m"]:
    """Return sorted positions: the first image of each class, then the second, and so on."""
    if size is None:
        return torch.arange(len(labels))
    if size > len(labels):
        raise FieldError(field, f"at most the {len(labels)} images of {name}", size)
    shuffled = torch.randperm(len(labels), generator=generator(0, "subset", name, field))
    by_class = labels[shuffled].argsort(stable=True)
    counts = labels.bincount()
    rank_in_class = torch.cat([torch.arange(int(count)) for count in counts])
    rounds = rank_in_class.argsort(stable=True)
    return shuffled[by_class[rounds[:size]]].sort().values
