"""Faults of the protocol: what arrives is not what the server expects."""

from dataclasses import dataclass, field, replace
from typing import Literal, final

import torch
from torch import nn

from clients.sgd import SgdClient
from clients.wrapping import Wrapper
from fl_sim import description
from fl_sim.contracts import Client, Shard, Update
from fl_sim.models.parameters import flat, load_flat

LAST = "faulty.last"  # what it trained in the round before
CLAIM = 10**9  # images, in a client that lies about them


@final
@dataclass(frozen=True)
class FaultyClient(Wrapper):
    """Train honestly, then break the protocol in one way.

    Threat model: a broken or malicious participant; the server has to notice it by itself. It
    sees no other client.

    Source: this project; Inf is an attack of ByzFL (2025), https://arxiv.org/abs/2505.24802.

    Attributes:
        fault: send `nan` or `inf` for every parameter; a vector of the wrong `shape`; the right
            one with a `count` of a billion images; a `stale` one, trained in the client's last
            round; the same `twice`.
        honest: the training that comes before.
    """

    fault: Literal["nan", "inf", "shape", "count", "stale", "twice"] = "nan"
    honest: Client = field(default_factory=SgdClient)

    def __post_init__(self) -> None:
        description.check_types(self)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Train in place; then spoil the parameters, or put back what was trained before."""
        start = flat(model)
        metrics = self.honest.train(model, shard, rng)
        if self.fault in ("nan", "inf"):
            load_flat(model, torch.full_like(start, float(self.fault)))
        if self.fault == "stale":
            trained = flat(model) - start
            load_flat(model, start + shard.memory.get(LAST, trained))
            shard.memory[LAST] = trained
        return metrics

    def replies(self, update: Update, shard: Shard) -> tuple[Update, ...]:
        """Send the update broken, or more than once."""
        sent = self.honest.replies(update, shard)
        if self.fault == "twice":
            return sent + sent
        if self.fault == "count":
            return tuple(replace(each, num_examples=CLAIM) for each in sent)
        if self.fault == "shape":
            return tuple(replace(each, delta=_shortened(each)) for each in sent)
        return sent


def _shortened(update: Update) -> torch.Tensor | None:
    return None if update.delta is None else update.delta[:-1]
