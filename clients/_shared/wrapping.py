"""Base classes of clients that wrap another client."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts import Client, ColludingClient, Collusion, Releases, SgdConfig, Shard, Update
from fl_sim.core.sums import chunks


class Delegate(Client):
    """A client around another one, `inner`, to which its methods delegate by default."""

    @property
    @abstractmethod
    def inner(self) -> Client:
        """The wrapped client."""

    def cannot_train(self, model: nn.Module) -> str:
        """Return the wrapped client's reason for refusing the model, or an empty string."""
        return self.inner.cannot_train(model)

    def num_steps(self, num_examples: int) -> int:
        """Return the wrapped client's number of steps."""
        return self.inner.num_steps(num_examples)

    def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
        """Load the wrapped client's personal model."""
        return self.inner.load_personal_model(model, memory)

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Return the wrapped client's releases."""
        return self.inner.releases(num_examples, memory)


class Wrapper(Delegate):
    """A malicious client around the training it pretends to do, `honest`."""

    honest: Client

    @property
    def inner(self) -> Client:
        """The honest client."""
        return self.honest

    @abstractmethod
    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train `model` in place, with the attack."""

    def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
        """Return as many updates as the wrapped client."""
        return self.honest.replies(update, shard)

    def rewrap(self, client: Client, always: bool) -> Client:
        """Replace `honest` if it is the default; if it is an attack, the client it wraps."""
        attack: Any = self
        inner = self.honest.rewrap(client, always)
        is_plain = inner is self.honest  # it wraps no client that can be replaced
        if self.honest == type(attack)().honest or (is_plain and always):
            inner = client
        return replace(attack, honest=inner)  # type: ignore[no-any-return]


class Colluder(Wrapper, ColludingClient):
    """An attack that trains honestly and replaces the update that is sent."""

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train as the wrapped client does."""
        return self.honest.train(model, shard, rng)

    def sgd_config(self, round_num: int) -> SgdConfig | None:
        """Return the wrapped client's configuration: the attack comes after the training."""
        return self.honest.sgd_config(round_num)

    def forge(self, known: Collusion) -> Float[Tensor, "k p"]:
        """Return the forged updates, or the trained ones if no honest update is known."""
        if len(known.honest) == 0:
            return known.own
        forged = self.compute_forged(known).to(known.own.dtype)
        return forged.expand(len(known.own), -1).clone() if forged.dim() == 1 else forged

    @abstractmethod
    def compute_forged(self, known: Collusion) -> Tensor:
        """Return one update for all colluders, or one row for each of them."""


def mean(updates: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """Return the mean of each coordinate, in float64."""
    return updates.mean(0, dtype=torch.float64)


def std(updates: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """Return the sample standard deviation of each coordinate in float64; 0 for one update."""
    size = updates.shape[1]
    result = torch.zeros(size, dtype=torch.float64)
    if len(updates) > 1:
        for columns in chunks(size):
            result[columns] = updates[:, columns].double().std(0)
    return result
