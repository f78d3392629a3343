"""The participant's plug-in: what it does in a round."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts.countermeasures import Countermeasure
from fl_sim.contracts.nouns import Shard, Update
from fl_sim.contracts.privacy import Releases
from fl_sim.contracts.rules import AggregationRule, RoundContext
from fl_sim.core.serialization import field_values
from fl_sim.triggers import Backdoor


@dataclass(frozen=True)
class SgdConfig:
    """Stochastic gradient descent in numbers: all that there is to some clients' training.

    Attributes:
        learning_rate, momentum, weight_decay: of the optimiser, in the round at hand.
        batch_size, local_epochs: of the round.
        label_smoothing: share of the uniform distribution in the targets, of either sign.
        mu: weight of half the squared distance to the received parameters.
        local_steps: of the round, in the place of whole epochs; None: `local_epochs`.
        worker_momentum: share of what the client sent last in what it sends; 0: none.
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
        """Return how many steps a round takes on a shard of this size."""
        if self.local_steps is not None:
            return self.local_steps
        return self.local_epochs * -(-num_examples // self.batch_size)

    def is_full_gradient_step(self, num_examples: int) -> bool:
        """Return whether a round is one step along the gradient of the plain mean loss."""
        one_step = self.num_steps(num_examples) == 1 and self.batch_size >= num_examples
        return one_step and self.label_smoothing == 0


class Client(ABC):
    """What a participant does in a round.

    `needs_images` says that it changes images: no frozen part of the model may hide them.
    """

    needs_images: ClassVar[bool] = False

    @abstractmethod
    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train `model` in place on `shard`, drawing only from `rng`.

        Returns:
            metrics of the local training; the same keys whatever the client.
        """

    def cannot_train(self, model: nn.Module) -> str:
        """Return why this client cannot train such a network, or nothing."""
        return ""

    def num_steps(self, num_examples: int) -> int:
        """Return how many optimiser steps a round takes on a shard of this size; 1 by default."""
        return 1

    def images_per_step(self) -> int | None:
        """Return the batch size of a step; None where the client has none of its own."""
        return None

    def applied_countermeasures(self) -> tuple[Countermeasure, ...]:
        """Return what the client itself does to images against their protection."""
        return ()

    def backdoor(self) -> Backdoor | None:
        """Return the trigger that the client plants and the class it stands for, if any."""
        return None

    def named_classes(self) -> dict[str, int]:
        """Return the classes that have to exist in the data, by the name of their field."""
        return {}

    def wrapped_clients(self) -> dict[str, "Client"]:
        """Return the clients that this one trains by: those in its fields, by field."""
        values = field_values(self).items()
        return {name: value for name, value in values if isinstance(value, Client)}

    def walk(self, path: str) -> Iterator[tuple[str, "Client"]]:
        """Yield this client and all that it wraps, outermost first, each with its path.

        Args:
            path: dotted path of this client, such as `adversary.client`.
        """
        yield path, self
        for name, client in self.wrapped_clients().items():
            yield from client.walk(f"{path}.{name}")

    def rewrap(self, client: "Client", always: bool) -> "Client":
        """Return this attack around `client`; itself where it is around none, as by default.

        Args:
            client: the training that the attack is to lead astray.
            always: also where the attack was given a training of its own.
        """
        return self

    def sgd_config(self, round_num: int) -> SgdConfig | None:
        """Return what round `number` is if it is plain descent, else None.

        Where a model allows it, an engine trains many such clients as one batch, and sends what
        they trained: a client whose `replies` are something else has no descent.
        """
        return None

    def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
        """Turn the global `model` into the client's own one, in place; False: it has none."""
        return False

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Return what has been released of this client's images; None: they are not protected.

        An accountant makes an epsilon of it, in a row `epsilon` of this client.

        Args:
            num_examples: size of the client's shard.
            memory: what the client kept, as after its last round.
        """
        return None

    def sent_shapes(self, received: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each vector that is sent beside the update, by name.

        The server asks the experiment's own client, and holds every participant to it: one that
        sends other vectors in `Shard.sent`, or leaves one out, has failed. By default they are
        those of the clients that this one wraps; mostly there are none.

        Args:
            received: what the rule broadcasts beside the model.
        """
        found: dict[str, tuple[int, ...]] = {}
        for client in self.wrapped_clients().values():
            found |= client.sent_shapes(received)
        return found

    def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
        """Return what is sent after training: the update; a faulty client sends something else."""
        return (update,)


@dataclass(frozen=True, eq=False)
class Collusion:
    """What colluding attackers know before they send: everything of the round.

    The threat model is that of an omniscient attacker: it sees the honest updates, and knows
    the rule and its state.

    Attributes:
        honest: updates of the honest clients of the round, in client order.
        own: what the attackers' own training gave, in client order.
        honest_weights, own_weights: shard sizes, as the server counts them.
        rule, state: what will aggregate them; None where Flower's own strategies do.
        rng: named for the round.
        senders: what the server knows of the honest clients, then of the attackers.
        retrained: returns what the honest clients would have sent, had they behaved in this
            round like the client that it is given; in the order of `honest`.
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
    """A malicious participant that makes its update from those of others.

    `train` gives what it would have sent by itself; then all colluders of one kind are forged
    together, on the server's side of the simulation.
    """

    @abstractmethod
    def forge(self, known: Collusion) -> Float[Tensor, "k p"]:
        """Return the updates that the colluders send, in the order of `seen.own`."""
