"""The nouns of a run, and the abstract plug-ins.

Axis letters, project-wide: `n` samples (or updates, in a rule), `c h w` channels, height
and width, `d` features, `k` clients, `p` trainable parameters, `y` classes.
Pixels are `uint8` in storage and floats in [0, 1] everywhere else; radii are in the same
unit, such as 8 / 255. Each plug-in is one final frozen dataclass in one file, with a default
for every field and a line `Source:` in its docstring.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor, nn

from fl_sim.perturbation import as_pixels, quantised
from fl_sim.sums import weighted_sum


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels as they were published; `train` and `test` never mix."""

    name: str
    train_images: UInt8[Tensor, "n c h w"]
    train_labels: Int64[Tensor, " n"]
    test_images: UInt8[Tensor, "t c h w"]
    test_labels: Int64[Tensor, " t"]
    class_names: tuple[str, ...]
    origin: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class Shard:
    """What one client trains on.

    `inputs` are `uint8` images, or float features where the backbone is frozen and its
    features are cached. `round` is the one that it is for, from 1; `proximal_mu` is what
    Flower's FedProx asks its clients to apply.
    """

    client: int
    inputs: Shaped[Tensor, "n ..."]
    labels: Int64[Tensor, " n"]
    sample_ids: Int64[Tensor, " n"]
    num_classes: int
    round: int = 1
    proximal_mu: float = 0.0

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Update:
    """What one client sends back: its parameters after training, not yet trusted."""

    client: int
    parameters: Float[Tensor, " p"]
    buffers: dict[str, Tensor]
    num_examples: int
    metrics: dict[str, float]


class Failure(NamedTuple):
    """A client that did not deliver: who, when, why."""

    round: int
    client: int
    cause: str


class Row(NamedTuple):
    """One number of the tidy table.

    `client` is -1 for a number about the whole federation; `group` names the subset of
    records or clients it is about; `low` and `high` bound a 95 % interval where there is one;
    `valid` is False, with the reason in `note`, where the number should not be read.
    """

    round: int
    metric: str
    value: float
    client: int = -1
    group: str = "all"
    low: float = float("nan")
    high: float = float("nan")
    valid: bool = True
    note: str = ""


@dataclass(frozen=True, eq=False)
class Observation:
    """What the metrics see after a round: scores of the global model, and who is who.

    The pool is the audited part of all records: as many members (trained on) as outsiders
    (held out) in each client, class and protected status, on which membership attacks are
    honest. `class_counts` and `protected_counts` are about everything that a client holds.
    """

    round: int
    test_logits: Float[Tensor, "t y"]
    test_labels: Int64[Tensor, " t"]
    pool_logits: Float[Tensor, "n y"]
    pool_labels: Int64[Tensor, " n"]
    pool_clients: Int64[Tensor, " n"]
    members: Bool[Tensor, " n"]
    protected: Bool[Tensor, " n"]
    class_counts: Int64[Tensor, "k y"]
    protected_counts: Int64[Tensor, " k"]
    updates: tuple[Update, ...]
    num_failures: int
    seconds: float
    bytes_down: int
    bytes_up: int

    @property
    def num_clients(self) -> int:
        """Number of clients."""
        return len(self.class_counts)


class Protection(ABC):
    """What a data owner does to images before anybody trains on them.

    Guarantee, by construction: shape, dtype and labels are kept; the change of every pixel
    stays within the ball after rounding to 8 bits; the result does not depend on the order
    of the samples. `short` is the name on the command line, the initials of the literature.
    """

    radius: float
    norm: ClassVar[Literal["linf", "l2"]] = "linf"
    short: ClassVar[str] = ""

    @abstractmethod
    def noise(
        self, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, " n"], seed: int
    ) -> Float[Tensor, "n c h w"]:
        """Return the change of every pixel, in pixels of [0, 1], for samples in id order."""

    @final
    def protect(
        self,
        images: UInt8[Tensor, "n c h w"],
        labels: Int64[Tensor, " n"],
        sample_ids: Int64[Tensor, " n"],
        seed: int,
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the protected images, in the order given.

        Args:
            images: clean images.
            labels: their labels, which are kept.
            sample_ids: stable ids; noise belongs to an id, not to a position.
            seed: same seed, same pixels.
        """
        if len(images) == 0:
            return images.clone()
        order = sample_ids.argsort()
        pixels = as_pixels(images[order])
        noise = self.noise(pixels, labels[order], seed)
        protected = torch.empty_like(images)
        protected[order] = quantised(images[order], noise, self.radius, self.norm)
        return protected


class Client(ABC):
    """What a participant does in a round."""

    @abstractmethod
    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train `model` in place on `shard`, drawing only from `rng`.

        Returns:
            metrics of the local training; the same keys whatever the client.
        """


class AggregationRule(ABC):
    """What the server does with updates: a pure function in update space.

    Updates are differences to the global parameters, in client order; sums are accumulated
    in float64. The state is a tree of tensors, numbers, strings and None.

    `coordinatewise` says that the rule keeps no state, and that each coordinate of its step
    depends on nothing but the weights and that coordinate of the updates. What wraps it may then
    hand it some coordinates at a time.
    """

    coordinatewise: ClassVar[bool] = False

    @property
    def min_updates(self) -> int:
        """Fewest updates for which the rule is defined."""
        return 1

    def initial_state(self, num_parameters: int) -> Any:
        """Return the state before the first round; None where the rule keeps none."""
        return None

    @abstractmethod
    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the next state and the step to add to the global parameters.

        Args:
            state: what the previous call returned.
            updates: one row a client, finite, in client order.
            weights: positive; the server's own shard sizes by default.

        Raises:
            ValueError: with fewer rows than `min_updates`.
        """

    def check_count(self, updates: Float[Tensor, "n p"]) -> None:
        """Raise `ValueError` where there are fewer updates than the rule needs."""
        if len(updates) < self.min_updates:
            name, needed = type(self).__name__, self.min_updates
            raise ValueError(f"{name} needs at least {needed} updates; got {len(updates)}")


class LinearRule(AggregationRule):
    """A rule whose step depends on the updates only through one weighted sum.

    The coefficients are known before any update arrives, so an engine may add updates up as
    they come instead of stacking them.
    """

    @abstractmethod
    def coefficients(self, weights: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the factor of each update in the sum."""

    @abstractmethod
    def finish(self, state: Any, total: Float[Tensor, " p"]) -> tuple[Any, Float[Tensor, " p"]]:
        """Return the next state and the step, from the weighted sum of the updates."""

    @final
    def aggregate(
        self, state: Any, updates: Float[Tensor, "n p"], weights: Float[Tensor, " n"]
    ) -> tuple[Any, Float[Tensor, " p"]]:
        """Sum the updates by their coefficients, in float64, and finish."""
        self.check_count(updates)
        total = weighted_sum(self.coefficients(weights.double()), updates)
        state, step = self.finish(state, total)
        return state, step.to(updates.dtype)


class Metric(ABC):
    """A family of numbers about a round, each a pure function of the observation."""

    @abstractmethod
    def rows(self, seen: Observation) -> Iterable[Row]:
        """Yield the numbers of this family."""
