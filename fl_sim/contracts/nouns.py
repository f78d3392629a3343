"""Data types of a run: datasets, shards, updates, failures and rows of results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor

from fl_sim.core.rows import Row as Row

Images = Float[Tensor, "n c h w"]  # pixels in [0, 1], or their changes
Labels = Int64[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels as published; training and test images never mix.

    `origin` is the source of the files, and `notes` are remarks about reading them. `train_owners`
    is the owner of each training image, as an index into `owner_names`; None if unknown.
    `test_owners` is the same of test images, with -1 for an owner without training images.
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
    test_owners: Int64[Tensor, " t"] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class Shard:
    """Training data of one client in a round.

    `inputs` are `uint8` images, or cached float features of a frozen backbone. `round` counts from
    1. `proximal_mu` is the proximal term that Flower's FedProx requests. `protected` marks the
    images with noise, which only a simulation can know; None if it is withheld. `received` holds
    the vectors that the rule broadcasts beside the model, by name. `changed_inputs` are the
    features of the images that the client's behaviour in the round changes its images to
    (`Client.change_images`); None where inputs are images, or none is changed. A client may change
    two fields in place: `memory`, tensors kept until its next round, and `sent`, vectors for the
    rule beside its update.
    """

    client: int
    inputs: Shaped[Tensor, "n ..."]
    labels: Int64[Tensor, " n"]
    sample_ids: Int64[Tensor, " n"]
    num_classes: int
    round: int = 1
    proximal_mu: float = 0.0
    protected: Bool[Tensor, " n"] | None = None
    changed_inputs: Float[Tensor, "n ..."] | None = None
    received: Mapping[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)
    sent: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Update:
    """An untrusted reply of one client.

    `delta` is the trained minus the received parameters; None once a worker has added it to a sum
    and sent only the sum. `norm` is its Euclidean length. `sent` holds further vectors for the
    rule, `memory` the tensors that the client keeps for its next round. `loss` is the loss of the
    received model on the client's shard, if the rule needs it.
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
    """A failed client, with its round and cause; client -1 is the engine."""

    round: int
    client: int
    cause: str
