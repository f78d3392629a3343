"""Client plug-ins: local training, and the updates that colluding clients forge."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from fl_sim.contracts.countermeasures import Countermeasure
from fl_sim.contracts.nouns import Shard, Update
from fl_sim.contracts.privacy import Releases
from fl_sim.contracts.rules import AggregationRule, RoundContext
from fl_sim.core.serialization import TypeChecked, field_values
from fl_sim.triggers import Backdoor


@dataclass(frozen=True)
class SgdConfig:
    """Hyperparameters of a client whose round is plain stochastic gradient descent.

    Attributes:
        learning_rate, momentum, weight_decay: Settings of the optimiser in this round.
        batch_size, local_epochs: Images per step, and passes over the shard.
        label_smoothing: Share of the uniform distribution in the targets; may be negative.
        mu: Weight of half the squared distance to the received parameters.
        local_steps: Steps per round instead of whole epochs; None: `local_epochs`.
        worker_momentum: Share of the last sent update in the next; 0 turns it off.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    batch_size: int
    local_epochs: int
    label_smoothing: float
    mu: float = 0.0
    local_steps: int | None = None
    worker_momentum: float = 0.0

    def num_steps(self, num_examples: int) -> int:
        """Return the number of steps per round on a shard of this size."""
        if self.local_steps is not None:
            return self.local_steps
        return self.local_epochs * -(-num_examples // self.batch_size)

    def is_full_gradient_step(self, num_examples: int) -> bool:
        """Return whether a round is one full-batch step on the plain mean loss."""
        one_step = self.num_steps(num_examples) == 1 and self.batch_size >= num_examples
        return one_step and self.label_smoothing == 0


class Client(TypeChecked, ABC):
    """A participant's behaviour in a round.

    Attributes:
        needs_images: Whether it needs images in training, so that it cannot train on cached
            features; not for a change of images that `change_images` describes.
        sends_statistics: Whether it sends statistics of its features, from which a head is solved,
            instead of training.
        action: An attack as a verb phrase for sentences, such as `flip labels`; empty: its name.
    """

    needs_images: ClassVar[bool] = False
    sends_statistics: ClassVar[bool] = False
    action: ClassVar[str] = ""

    @abstractmethod
    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train `model` in place on `shard`, drawing only from `rng`.

        Returns:
            Metrics of the local training, with the same keys for every client.
        """

    def cannot_train(self, model: nn.Module) -> str:
        """Return the reason why this client cannot train the network, or an empty string."""
        return ""

    def num_steps(self, num_examples: int) -> int:
        """Return the number of optimiser steps per round on a shard of this size."""
        return 1

    def images_per_step(self) -> int | None:
        """Return the batch size of a step; None if the client does not set one."""
        return None

    def applied_countermeasures(self) -> tuple[Countermeasure, ...]:
        """Return the countermeasures that the client applies to its images."""
        return ()

    def change_images(
        self, images: UInt8[Tensor, "n c h w"], shard: Shard
    ) -> UInt8[Tensor, "n c h w"]:
        """Return the images that the client trains on in the place of these; by default these.

        The change must be the same in each round. If the front of the network is frozen, it is
        made once, and `Shard.changed_inputs` are the features of the changed images.

        Args:
            images: Images of the shard, not to be changed in place.
            shard: The shard, whose inputs may be features.
        """
        return images

    @property
    def changes_images(self) -> bool:
        """True if this client, or one that it wraps, has a method `change_images` of its own."""
        parts = (type(part) for _, part in self.walk(""))
        return any(part.change_images is not Client.change_images for part in parts)

    def backdoor(self) -> Backdoor | None:
        """Return the trigger that the client plants and its target class, or None."""
        return None

    def named_classes(self) -> dict[str, int]:
        """Return the classes that the data must have, by field name."""
        return {}

    def wrapped_clients(self) -> dict[str, "Client"]:
        """Return the clients in this client's fields, by field name."""
        values = field_values(self).items()
        return {name: value for name, value in values if isinstance(value, Client)}

    def walk(self, path: str) -> Iterator[tuple[str, "Client"]]:
        """Yield this client and the clients it wraps, outermost first, with their paths.

        Args:
            path: Dotted path of this client, such as `adversary.client`.
        """
        yield path, self
        for name, client in self.wrapped_clients().items():
            yield from client.walk(f"{path}.{name}")

    def rewrap(self, client: "Client", always: bool) -> "Client":
        """Return this attack wrapped around `client`; a client that is no wrapper returns itself.

        Args:
            client: Client whose training the attack changes.
            always: Also replace a client that the attack was explicitly given.
        """
        return self

    def sgd_config(self, round_num: int) -> SgdConfig | None:
        """Return the hyperparameters of the round if it is plain gradient descent, else None.

        Engines may train many such clients as one batch and send the trained updates, so a client
        that overrides `replies` must return None.
        """
        return None

    def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
        """Load the client's personal model into `model`; return whether there is one."""
        return False

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Return the noisy releases of this client's images; None if it promises no privacy.

        The accountant computes the row `epsilon` of this client from them.

        Args:
            num_examples: Size of the client's shard.
            memory: Tensors that the client stored in its last round.
        """
        return None

    def sent_shapes(self, received: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the vectors that are sent beside the update, by name.

        The server expects the shapes of the experiment's `client` from every participant: one
        that sends other vectors in `Shard.sent`, or omits one, has failed. By default they are
        those of the wrapped clients.

        Args:
            received: Vectors that the rule broadcasts beside the model.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for client in self.wrapped_clients().values():
            shapes |= client.sent_shapes(received)
        return shapes

    def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
        """Return the updates that are sent after training; a faulty client changes them."""
        return (update,)


@dataclass(frozen=True, eq=False)
class Collusion:
    """Knowledge of colluding attackers before they send.

    The threat model is that of an omniscient attacker: it sees the honest updates, and knows
    the rule and its state.

    Attributes:
        honest: Updates of the honest clients of the round, in client order.
        own: Updates that the attackers trained themselves, in client order.
        honest_weights, own_weights: Shard sizes, as the server counts them.
        rule, state: Rule that will aggregate the updates, and its state; None for a strategy of
            Flower's.
        rng: Generator of the round.
        context: Server's context of the round: the honest clients, then the attackers.
        retrained: Function that returns the updates, in the order of `honest`, that the honest
            clients would have sent had they behaved in this round like the given client.
    """

    honest: Float[Tensor, "m p"]
    own: Float[Tensor, "k p"]
    honest_weights: Float[Tensor, " m"]
    own_weights: Float[Tensor, " k"]
    rule: AggregationRule | None
    state: Any
    rng: torch.Generator
    context: RoundContext | None = None
    retrained: Callable[[Client], Float[Tensor, "m p"]] | None = None


class ColludingClient(Client):
    """A malicious participant that forges its update from those of others.

    `train` computes the update it would send alone; then the updates of all colluders of one kind
    are forged together, on the server's side of the simulation.
    """

    @abstractmethod
    def forge(self, known: Collusion) -> Float[Tensor, "k p"]:
        """Return the updates that the colluders send, in the order of `known.own`."""
