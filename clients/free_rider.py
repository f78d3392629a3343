"""A free rider: takes the model, does no work, and sends something that looks like it."""

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from clients.sgd import iterate_batches
from fl_sim.contracts import Client, Shard
from fl_sim.core import serialization
from fl_sim.core.errors import require
from fl_sim.models.parameters import flatten, load_flat

SEEN, BATCH = "free_rider.seen", 256  # the model of the round before; images scored at once


@final
@dataclass(frozen=True)
class FreeRiderClient(Client):
    """Repeat the last change of the global model, blurred by noise, instead of training.

    It wraps nobody, since it does not train; the loss and accuracy that it reports are those
    of the model that it received. In its first round it sends noise alone.

    Threat model: a selfish participant that keeps the models it was sent, and sees no other
    client. It wants the model for nothing, and does not mean to harm it.

    Source: Lin et al. (2019), Free-riders in Federated Learning, sections 3.2 (the last
    change) and 4.1 (with noise), https://arxiv.org/abs/1911.12560.

    Attributes:
        repeats: how much of the last change is sent; 0: none.
        noise: standard deviation of what is added to every parameter.
    """

    repeats: float = 1.0
    noise: float = 1e-3

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require(self.repeats >= 0, "repeats", "at least 0", self.repeats)
        require(self.noise >= 0, "noise", "at least 0", self.noise)

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Move the parameters without looking at the data."""
        received = flatten(model)
        change = received - shard.memory.get(SEEN, received)
        shard.memory[SEEN] = received
        metrics = _evaluate(model, shard)
        blur = self.noise * torch.randn(len(received), generator=rng)
        load_flat(model, received + self.repeats * change + blur)
        return metrics


@torch.no_grad()
def _evaluate(model: nn.Module, shard: Shard) -> dict[str, float]:
    """Return loss and accuracy of the model as it came."""
    model.eval()
    loss, right = 0.0, 0
    for inputs, labels in iterate_batches(shard, BATCH, torch.Generator().manual_seed(0)):
        logits = model(inputs)
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return {"train_loss": loss / len(shard), "train_accuracy": right / len(shard)}
