"""Partitions of a training set over clients: index lists that cover it exactly once."""

import heapq
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
from jaxtyping import Int64
from torch import Tensor, from_numpy

from fl_sim.core import serialization
from fl_sim.core.errors import FieldError, require

Indices = npt.NDArray[np.int64]
ATTEMPTS = 1000  # draws until every client has its minimum; Dirichlet(0.1) needs a few dozen


class Partition(ABC):
    """A rule that splits the training images over the clients.

    Attributes:
        needs_owners: True if the dataset has to name the owner of each image.
        package: Package that has to be installed for it, or an empty string.
        own_test: Whether clients are tested on the test images of their own owners.
    """

    needs_owners: ClassVar[bool] = False
    package: ClassVar[str] = ""
    own_test: bool = False

    @abstractmethod
    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return one list of indices per client; together they cover `labels` once."""

    def split_with_owners(
        self, owners: Indices, labels: Indices, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Return the same if the owners of the images are known; by default these are ignored."""
        return self.split(labels, num_clients, rng)


def partition_records(
    partition: Partition,
    labels: Int64[Tensor, " n"],
    num_clients: int,
    rng: np.random.Generator,
    owners: Int64[Tensor, " n"] | None = None,
) -> list[Int64[Tensor, " m"]]:
    """Return the sorted indices of each client.

    Args:
        partition: Rule by which they are split.
        labels: Labels of the images.
        num_clients: Number of clients.
        rng: Generator for all draws.
        owners: Owner of each image, from 0, or None if unknown.

    Raises:
        FieldError: If there are more clients than samples.
    """
    allowed = f"at most one client per sample, {len(labels)}"
    require(num_clients <= len(labels), "data.num_clients", allowed, num_clients)
    if owners is None:
        parts = partition.split(labels.numpy(), num_clients, rng)
    else:
        parts = partition.split_with_owners(owners.numpy(), labels.numpy(), num_clients, rng)
    return [from_numpy(np.sort(part)) for part in parts]


def _group_by_class(labels: Indices, rng: np.random.Generator) -> list[Indices]:
    return [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]


@final
@dataclass(frozen=True)
class Iid(Partition):
    """Equal shares of a shuffled set.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, section 3.
    """

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return equal parts of a permutation."""
        return list(np.array_split(rng.permutation(len(labels)), num_clients))


@final
@dataclass(frozen=True)
class Dirichlet(Partition):
    """Each class is spread over the clients by a draw from Dirichlet(alpha).

    Source: Hsu et al. (2019), https://arxiv.org/abs/1909.06335; the redraw until every client
    has `min_size`, and the cap, are those of Li et al. (2022), https://arxiv.org/abs/2102.02079.

    Attributes:
        alpha: Concentration; the smaller it is, the less alike the clients are.
        min_size: Smallest number of images per client.
        capped: If True, a client gets no further class once it has an equal share of all images,
            so that sizes differ less.
    """

    alpha: float = 0.5
    min_size: int = 10
    capped: bool = False

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.alpha > 0, "alpha", "above 0", self.alpha)
        require(self.min_size >= 1, "min_size", "at least 1", self.min_size)

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Draw shares class by class, and again until every client has its minimum."""
        if self.min_size * num_clients > len(labels):
            allowed = f"at most {len(labels) // num_clients} images for each of the clients"
            raise FieldError("partition.min_size", allowed, self.min_size)
        classes = _group_by_class(labels, rng)
        for _ in range(ATTEMPTS):
            clients = self._draw_once(classes, num_clients, rng)
            if min(map(len, clients)) >= self.min_size:
                return clients
        allowed = f"a split with {self.min_size} images per client within {ATTEMPTS} draws"
        raise FieldError("partition.alpha", allowed, self.alpha)

    def _draw_once(
        self, classes: list[Indices], num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Return the indices of each client in one draw."""
        equal = sum(map(len, classes)) / num_clients
        sizes, parts = np.zeros(num_clients), []
        for rows in classes:
            shares = rng.dirichlet(np.full(num_clients, self.alpha))
            if self.capped:
                shares = shares * (sizes < equal)
                shares = shares / shares.sum()
            cuts = (np.cumsum(shares)[:-1] * len(rows)).round().astype(np.int64)
            parts.append(np.split(rows, cuts))
            sizes += [len(part) for part in parts[-1]]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


@final
@dataclass(frozen=True)
class Shards(Partition):
    """Each client gets `classes_per_client` shards of a set sorted by class.

    Source: McMahan et al. (2017), https://arxiv.org/abs/1602.05629, section 3.
    """

    classes_per_client: int = 2

    def __post_init__(self) -> None:
        serialization.check_types(self)
        count = self.classes_per_client
        require(count >= 1, "classes_per_client", "at least 1", count)

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Sort by class, cut into shards, and deal them out."""
        num_shards = num_clients * self.classes_per_client
        if num_shards > len(labels):
            allowed = f"at most {len(labels) // num_clients} shards for each of the clients"
            raise FieldError("partition.classes_per_client", allowed, self.classes_per_client)
        by_class = np.concatenate(_group_by_class(labels, rng))
        shards = np.array_split(by_class, num_shards)
        dealt = rng.permutation(num_shards).reshape(num_clients, self.classes_per_client)
        return [np.concatenate([shards[s] for s in row]) for row in dealt]


@final
@dataclass(frozen=True)
class ClassesPerClient(Partition):
    """Each client holds a fixed number of classes, each split equally over its holders.

    Client i holds class i modulo the number of classes, and others at random. If there are too
    few clients for all classes, each holds as many more as needed.

    Source: Li et al. (2022), "#C = k", https://arxiv.org/abs/2102.02079.
    """

    classes_per_client: int = 2

    def __post_init__(self) -> None:
        serialization.check_types(self)
        count = self.classes_per_client
        require(count >= 1, "classes_per_client", "at least 1", count)

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Choose the holders of each class, then split the class over them."""
        classes = _group_by_class(labels, rng)
        holds = self._assign_classes(len(classes), num_clients, rng)
        clients: list[list[Indices]] = [[] for _ in range(num_clients)]
        for column, rows in zip(holds.T, classes, strict=True):
            holders = rng.permutation(np.flatnonzero(column))
            for client, part in zip(holders, np.array_split(rows, len(holders)), strict=True):
                clients[client].append(part)
        shards = [np.concatenate(parts) for parts in clients]
        if min(map(len, shards)) == 0:
            allowed = "fewer, so that every client gets an image of one of its classes"
            raise FieldError("partition.classes_per_client", allowed, self.classes_per_client)
        return shards

    def _assign_classes(
        self, num_classes: int, num_clients: int, rng: np.random.Generator
    ) -> npt.NDArray[np.bool_]:
        """Return a boolean [clients, classes] matrix of holders; every class has one."""
        holds = np.zeros((num_clients, num_classes), dtype=bool)
        clients = np.arange(num_clients)
        holds[clients, clients % num_classes] = True
        left = rng.permutation(np.arange(num_clients, num_classes))
        holds[np.arange(len(left)) % num_clients, left] = True
        for row in holds:
            missing = min(self.classes_per_client, num_classes) - row.sum()
            if missing > 0:
                row[rng.choice(np.flatnonzero(~row), missing, replace=False)] = True
        return holds


@final
@dataclass(frozen=True)
class PowerLaw(Partition):
    """The same classes for all clients, but sizes that fall as a power of the client's rank.

    Source: Li et al. (2020), https://arxiv.org/abs/1812.06127, section 5.1.
    """

    exponent: float = 1.0
    min_size: int = 10

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.exponent >= 0, "exponent", "at least 0", self.exponent)
        require(self.min_size >= 1, "min_size", "at least 1", self.min_size)

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return parts of a permutation of falling size, dealt to the clients at random."""
        spare = len(labels) - self.min_size * num_clients
        if spare < 0:
            allowed = f"at most {len(labels) // num_clients} images for each of the clients"
            raise FieldError("partition.min_size", allowed, self.min_size)
        weights = rng.permutation(np.arange(1, num_clients + 1, dtype=float) ** -self.exponent)
        sizes = self.min_size + np.floor(spare * weights / weights.sum()).astype(np.int64)
        sizes[: len(labels) - sizes.sum()] += 1
        return list(np.split(rng.permutation(len(labels)), np.cumsum(sizes)[:-1]))


@final
@dataclass(frozen=True)
class ByOwner(Partition):
    """Each client gets all images of one owner, or of several owners (natural ids).

    Owners are those that the dataset names: a level of an image folder (`data.folders`, such as
    `label/owner`), or the column `owner` of its labels.csv. With as many clients as owners, client
    i is owner i in the order of their names. With fewer, owners are dealt out by size, the largest
    first, each to the client with the fewest images.

    Source: the natural partitions of LEAF, Caldas et al. (2018), https://arxiv.org/abs/1812.01097.

    Attributes:
        own_test: Whether a client's accuracy is that on the test images of its own owners, as in
            LEAF, instead of all test images weighted by its classes. The dataset has to name the
            owners of test images too.
    """

    needs_owners: ClassVar[bool] = True

    own_test: bool = serialization.omit_if_default(False)

    def __post_init__(self) -> None:
        serialization.check_types(self)

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Split the images as if each had an owner of its own."""
        return self.split_with_owners(np.arange(len(labels)), labels, num_clients, rng)

    def split_with_owners(
        self, owners: Indices, labels: Indices, num_clients: int, rng: np.random.Generator
    ) -> list[Indices]:
        """Assign each owner to one client."""
        order = owners.argsort(kind="stable")
        cuts = np.flatnonzero(np.diff(owners[order])) + 1
        held = np.split(order, cuts)
        if num_clients > len(held):
            allowed = f"at most one client per owner, {len(held)}"
            raise FieldError("data.num_clients", allowed, num_clients)
        if num_clients == len(held) < len(labels):
            return held
        parts: list[list[Indices]] = [[] for _ in range(num_clients)]
        fewest = [(0, client) for client in range(num_clients)]
        for owner in sorted(rng.permutation(len(held)), key=lambda i: -len(held[i])):
            size, client = fewest[0]
            heapq.heapreplace(fewest, (size + len(held[owner]), client))
            parts[client].append(held[owner])
        return [np.concatenate(part) for part in parts]
