"""Clients around another one, which they follow but for one thing."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fl_sim.contracts import Client, ColludingClient, Collusion, Releases, SgdConfig, Shard, Update
from fl_sim.core.sums import chunks


class Delegate(Client):
    """A client around another one, `inner`, which it follows unless it says otherwise."""

    @property
    @abstractmethod
    def inner(self) -> Client:
        """The client that it wraps."""

    def cannot_train(self, model: nn.Module) -> str:
        """Refuse what the client that it wraps refuses."""
        return self.inner.cannot_train(model)

    def num_steps(self, num_examples: int) -> int:
        """Return those of the training that it wraps."""
        return self.inner.num_steps(num_examples)

    def load_personal_model(self, model: nn.Module, memory: dict[str, Tensor]) -> bool:
        """Have the own model of the client that it wraps."""
        return self.inner.load_personal_model(model, memory)

    def releases(self, num_examples: int, memory: dict[str, Tensor]) -> Releases | None:
        """Claim what the client that it wraps does."""
        return self.inner.releases(num_examples, memory)


class Wrapper(Delegate):
    """A malicious client around the training that it pretends to, `honest`."""

    honest: Client

    @property
    def inner(self) -> Client:
        """The honest client."""
        return self.honest

    @abstractmethod
    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train `model` in place, going astray somewhere."""

    def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
        """Send as often as the client that it wraps."""
        return self.honest.replies(update, shard)

    def rewrap(self, client: Client, always: bool) -> Client:
        """Replace `honest` where it is the default; where it is an attack, what that wraps."""
        attack: Any = self
        inner = self.honest.rewrap(client, always)
        is_plain = inner is self.honest  # it wraps nothing that can be replaced
        if self.honest == type(attack)().honest or (is_plain and always):
            inner = client
        return replace(attack, honest=inner)  # type: ignore[no-any-return]


class Colluder(Wrapper, ColludingClient):
    """A wrapper that trains as it should, and forges what is sent."""

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train as the wrapped client does."""
        return self.honest.train(model, shard, rng)

    def sgd_config(self, round_num: int) -> SgdConfig | None:
        """Train in a cohort where the wrapped client does: what is sent comes later."""
        return self.honest.sgd_config(round_num)

    def forge(self, known: Collusion) -> Float[Tensor, "k p"]:
        """Send what is forged; what was trained, where nobody honest is seen."""
        if len(known.honest) == 0:
            return known.own
        forged = self.compute_forged(known).to(known.own.dtype)
        return forged.expand(len(known.own), -1).clone() if forged.dim() == 1 else forged

    @abstractmethod
    def compute_forged(self, known: Collusion) -> Tensor:
        """Return one update for all colluders, or one a row for each of them."""


def mean(updates: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """Return the mean of each coordinate, in float64."""
    return updates.mean(0, dtype=torch.float64)


def std(updates: Float[Tensor, "n p"]) -> Float[Tensor, " p"]:
    """Return the sample standard deviation of each coordinate, in float64; of a single one, 0."""
    size = updates.shape[1]
    result = torch.zeros(size, dtype=torch.float64)
    if len(updates) > 1:
        for columns in chunks(size):
            result[columns] = updates[:, columns].double().std(0)
    return result
