"""Free rider: a client that sends a plausible update without training."""

from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from clients.sgd import iterate_batches
from fl_sim.contracts import Client, Shard
from fl_sim.core.errors import require_at_least
from fl_sim.models.parameters import flatten, load_flat

SEEN, BATCH = "free_rider.seen", 256  # name of the last model in the memory; batch size


@final
@dataclass(frozen=True)
class FreeRiderClient(Client):
    """Send the last change of the global model plus Gaussian noise, instead of training.

    It does not wrap a client, since it does not train; the loss and accuracy that it reports are
    those of the model that it received. In its first round it sends noise alone.

    Threat model: a selfish participant that keeps the models it receives and knows no other client.
    It wants the model without contributing, and does not intend to harm it.

    Source: Lin et al. (2019), Free-riders in Federated Learning, sections 3.2 (the last change) and
    4.1 (with noise), https://arxiv.org/abs/1911.12560.

    Attributes:
        repeats: Factor of the last change; 0 sends noise alone.
        noise: Standard deviation of the noise on every parameter.
    """

    repeats: float = 1.0
    noise: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "repeats", "noise")

    def train(self, model: nn.Module, shard: Shard, rng: torch.Generator) -> dict[str, float]:
        """Move the parameters without using the data."""
        received = flatten(model)
        change = received - shard.memory.get(SEEN, received)
        shard.memory[SEEN] = received
        metrics = _evaluate(model, shard)
        blur = self.noise * torch.randn(len(received), generator=rng)
        load_flat(model, received + self.repeats * change + blur)
        return metrics


@torch.no_grad()
def _evaluate(model: nn.Module, shard: Shard) -> dict[str, float]:
    """Return loss and accuracy of the model as received."""
    model.eval()
    loss, right = 0.0, 0
    for inputs, labels in iterate_batches(shard, BATCH, torch.Generator().manual_seed(0)):
        logits = model(inputs)
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return {"train_loss": loss / len(shard), "train_accuracy": right / len(shard)}
