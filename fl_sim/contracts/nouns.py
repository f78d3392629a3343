"""What travels through a run: datasets, shards, updates, and the rows of the result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor

from fl_sim.core.rows import Row as Row


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels as they were published; `train` and `test` never mix.

    `origin` says where they come from, `notes` what has to be known of how they were read.
    `train_owners` numbers whose each training image is, from 0, with names in `owner_names`; None
    where the dataset does not say.
    """

    name: str
    train_images: UInt8[Tensor, "n c h w"]
    train_labels: Int64[Tensor, " n"]
    test_images: UInt8[Tensor, "t c h w"]
    test_labels: Int64[Tensor, " t"]
    class_names: tuple[str, ...]
    origin: str
    train_owners: Int64[Tensor, " n"] | None = None
    owner_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class Shard:
    """What one client trains on.

    `inputs` are `uint8` images, or float features where the backbone is frozen and its
    features are cached. `round` is the one that it is for, from 1; `proximal_mu` is what
    Flower's FedProx asks its clients to apply. `protected` says which images carry noise: the
    truth, which only a simulation knows; None where it is not told. `received` holds the vectors
    that the rule broadcasts beside the model, by name. A client may change two of the fields in
    place: `memory`, what it keeps from one of its rounds to its next, and `sent`, vectors for
    the rule beside its update.
    """

    client: int
    inputs: Shaped[Tensor, "n ..."]
    labels: Int64[Tensor, " n"]
    sample_ids: Int64[Tensor, " n"]
    num_classes: int
    round: int = 1
    proximal_mu: float = 0.0
    protected: Bool[Tensor, " n"] | None = None
    received: Mapping[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)
    sent: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Update:
    """What one client sends back, not yet trusted.

    `delta` is its parameters after training minus those it was sent; None once it has been
    added up where it was made, and only the sum went on. `norm` is its Euclidean length.
    `sent` holds further vectors for the rule; `memory` is what the client keeps for its next
    round; `loss` is that of the received model on the client's own shard, where a rule asks.
    """

    client: int
    delta: Float[Tensor, " p"] | None
    buffers: dict[str, Tensor]
    num_examples: int
    metrics: dict[str, float]
    norm: float = float("nan")
    loss: float = float("nan")
    sent: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)


class Failure(NamedTuple):
    """A client that did not deliver: who, when, why; client -1 is the machinery itself."""

    round: int
    client: int
    cause: str
